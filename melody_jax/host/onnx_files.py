"""Networks in ONNX files, run on the CPU by onnxruntime (extra: eval)."""

from collections.abc import Sequence
import pathlib
from typing import Any

from melody_jax.errors import UserError


def open_session(
  file: pathlib.Path | bytes, inputs: Sequence[str], outputs: Sequence[str], given_by: str
) -> Any:
  """Opens a network and checks that it is the one that is meant.

  Args:
    file: ONNX file, or its contents.
    inputs: Names that its inputs must have.
    outputs: Names that must be among its outputs.
    given_by: The option that names the file, for messages.

  Returns:
    An `onnxruntime.InferenceSession`.

  Raises:
    UserError: if onnxruntime is not installed, or the file is missing, damaged or another network.
  """
  try:
    import onnxruntime
  except ImportError as error:
    raise UserError("onnxruntime is not installed: pip install 'melody_jax[eval]'") from error
  named = "the network" if isinstance(file, bytes) else str(file)
  if not isinstance(file, bytes) and not file.is_file():
    raise UserError(f"no file {file} ({given_by})")
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4  # its warnings speak of the exporter's doings
  try:
    session = onnxruntime.InferenceSession(
      file if isinstance(file, bytes) else str(file), options, providers=["CPUExecutionProvider"]
    )
  except Exception as error:  # its errors share no class
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{named} is no intact ONNX file ({given_by}): {reason}") from error
  found = {x.name for x in session.get_inputs()}, {x.name for x in session.get_outputs()}
  if set(inputs) != found[0] or not set(outputs) <= found[1]:
    raise UserError(
      f"{named} takes {', '.join(sorted(found[0]))} and gives {', '.join(sorted(found[1]))};"
      f" {', '.join(inputs)} and {', '.join(outputs)} are asked for ({given_by})"
    )
  return session
