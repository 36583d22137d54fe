"""Reads public safetensors checkpoints by the tensor names of their own libraries.

The networks that can begin with such a file (`models/bert.py`, `models/music_tower.py`,
`models/wav2vec_checkpoint.py`) map names; what all of them need stands here.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from melody_jax.errors import UserError


class Reader:
  """Tensors of an open checkpoint, as float32 numpy arrays in the layouts of our layers.

  Args:
    tensors: Open safetensors file.
    where: Path of the file, for messages.
    kind: Name of the model that the file should hold, for messages.
    prefix: Beginning that names may have, such as "bert.": models with a head put the encoder
      under it.
  """

  def __init__(self, tensors: Any, where: str, kind: str, prefix: str):
    self._tensors, self._where, self._kind = tensors, where, kind
    # The oldest files call a norm's scale and bias gamma and beta.
    self._names = {
      n.removeprefix(prefix).replace(".gamma", ".weight").replace(".beta", ".bias"): n
      for n in tensors.keys()
    }

  def has(self, name: str) -> bool:
    """Whether the file has a tensor of this name."""
    return name in self._names

  def get(self, name: str) -> np.ndarray:
    """The tensor of a name, float32 in its shape in the file.

    Raises:
      UserError: The file lacks it.
    """
    if name not in self._names:
      raise UserError(
        f"{self._where} has no tensor {name}: it is not a {self._kind}-shaped checkpoint"
      )
    return np.asarray(self._tensors.get_tensor(self._names[name])).astype(np.float32)

  def choose(self, *names: str) -> str:
    """The first of several names of one layer that the file knows; the first of all if none."""
    return next((n for n in names if self.has(f"{n}.weight")), names[0])

  def dense(self, *names: str, bias: bool = True) -> dict[str, np.ndarray]:
    """A dense layer, or a convolution of one tap, under the first of its names that is there."""
    name = self.choose(*names)
    weight = self.get(f"{name}.weight")
    if weight.shape[2:] == (1,):
      weight = weight[:, :, 0]
    # PyTorch stores a dense layer as [out, in].
    layer = {"kernel": weight.T}
    return layer | ({"bias": self.get(f"{name}.bias")} if bias else {})

  def norm(self, name: str) -> dict[str, np.ndarray]:
    """Scale and bias of a norm."""
    return {"scale": self.get(f"{name}.weight"), "bias": self.get(f"{name}.bias")}

  def stack(self, blocks: list[Any]) -> Any:
    """Trees of single blocks -> one tree whose arrays lie stacked along a first axis.

    Raises:
      UserError: The blocks differ in shape.
    """
    try:
      # Our encoders scan over their layers.
      return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    except ValueError as e:
      raise UserError(
        f"{self._where}: its blocks differ in shape, which no network here has"
      ) from e


def checkpoint_file(path: str | os.PathLike) -> pathlib.Path:
  """The file of a checkpoint that is named by itself or by the directory that holds it."""
  path = pathlib.Path(path)
  return path / "model.safetensors" if path.is_dir() else path


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike, kind: str, prefix: str) -> Iterator[Reader]:
  """Opens a checkpoint file for the length of a `with` block.

  Args:
    path: The file.
    kind: Name of the model that it should hold, for messages.
    prefix: Beginning that its names may have.

  Raises:
    UserError: The file is missing or is no safetensors file, at the start or while it is read.
  """
  from safetensors import SafetensorError, safe_open

  if not pathlib.Path(path).is_file():
    raise UserError(f"cannot read {path} (no such file): name a {kind} model.safetensors")
  try:
    with safe_open(path, framework="numpy") as tensors:
      yield Reader(tensors, str(path), kind, prefix)
  except (SafetensorError, OSError) as e:
    raise UserError(f"cannot read {path} ({e}): it must be a safetensors file") from e


def check_shapes(path: str | os.PathLike, params: Any, expected: Any) -> None:
  """Compares what was read with what the network asks for.

  Args:
    path: The file, for the message.
    params: Nested dict of arrays.
    expected: The same tree with the shapes of the network.

  Raises:
    UserError: A shape differs.
  """
  wanted = dict(jax.tree.leaves_with_path(expected))
  for key, leaf in jax.tree.leaves_with_path(params):
    if wanted[key].shape != leaf.shape:
      name = jax.tree_util.keystr(key, simple=True, separator="/")
      raise UserError(
        f"{path}: {name} has shape {leaf.shape}, config.model asks for {wanted[key].shape}"
      )


def check_settings(path: str | os.PathLike, settings: Mapping[str, tuple[str, Any]]) -> None:
  """Compares settings that no shape tells with the config.json beside a checkpoint, if any.

  Args:
    path: The checkpoint's file.
    settings: {key of config.json: (our name of the setting, its value in config.model)}.

  Raises:
    UserError: A setting differs, or config.json is damaged.
  """
  page = pathlib.Path(path).parent / "config.json"
  if not page.is_file():
    return
  try:
    theirs = dict(json.loads(page.read_text(encoding="utf-8")))
  except (OSError, ValueError, TypeError) as e:
    raise UserError(f"cannot read {page} ({e}): it must be the checkpoint's JSON") from e
  for key, (name, value) in settings.items():
    if key in theirs and theirs[key] != value:
      raise UserError(
        f"{page} says {key} = {theirs[key]}, config.model.{name} is {value}: set it to that"
      )
