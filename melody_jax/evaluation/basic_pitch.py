"""Posteriors of 88 pitches by basic-pitch: the transcriber that judges notes.

Bittner et al. 2022, "A lightweight instrument-agnostic model for polyphonic note transcription"
(arXiv 2203.09893); Apache-2.0. Its wheel holds the network as an ONNX file of 230 KB, which
onnxruntime reads; the package itself, and what it asks for, are never imported.
"""

import dataclasses
import importlib.util
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluation.embeddings.adapter import digest_of
from melody_jax.host.onnx_files import open_session

SAMPLE_RATE = 22_050
HOP = 256
FRAME_RATE = SAMPLE_RATE / HOP
_WINDOW = 2 * SAMPLE_RATE - HOP  # samples of a pass: 172 frames
_CUT = 15  # frames at either end of a pass that hear too little around them
_LEVEL = 0.1  # root mean square of what the network hears
_INPUT = "serving_default_input_2:0"
_NOTES, _ONSETS = "StatefulPartitionedCall:1", "StatefulPartitionedCall:2"  # as the package has it
_FILE = "basic_pitch/saved_models/icassp_2022/nmp.onnx"  # inside the wheel
_GIVEN_BY = "config.audio.notes"


def find(path: str | os.PathLike = "") -> pathlib.Path:
  """The network's file.

  Args:
    path: The ONNX file, a wheel of basic-pitch, or a folder that holds either's contents; "": the
      installed package's.

  Raises:
    UserError: if there is none, saying how to get it.
  """
  if path:
    given = pathlib.Path(path)
    inside = [given / _FILE, given / pathlib.Path(_FILE).name] if given.is_dir() else [given]
    found = next((file for file in inside if file.is_file()), None)
    if found is None:
      raise UserError(f"no file {inside[0]} ({_GIVEN_BY})")
    return found
  package = importlib.util.find_spec("basic_pitch")
  folders = package.submodule_search_locations or [] if package else []
  for folder in folders:
    file = pathlib.Path(folder).parent / _FILE
    if file.is_file():
      return file
  raise UserError(
    "the judge of notes is not installed: pip install --no-deps basic-pitch, or name its nmp.onnx"
    f" ({_GIVEN_BY})"
  )


@dataclasses.dataclass(frozen=True)
class Posteriors:
  """Posteriors of the pitches A0 to C8, 86 frames a second, of at least a whole clip.

  Attributes:
    notes_TxP: Probability that a pitch sounds, float32 [frames, 88].
    onsets_TxP: Probability that it begins to sound, float32 [frames, 88].
  """

  notes_TxP: np.ndarray
  onsets_TxP: np.ndarray

  @property
  def denser_TxP(self) -> np.ndarray:
    """Whichever of the two has the larger mean [frames, 88].

    The project's first figures took it for that of notes. In noise and in much music it is that of
    onsets, which a held note leaves after a frame or two: notes are then missed. Kept so that those
    figures compare.
    """
    denser = self.notes_TxP.mean() > self.onsets_TxP.mean()
    return self.notes_TxP if denser else self.onsets_TxP


class NoteModel:
  """The network; see `find` for its argument.

  Attributes:
    digest: SHA-256 of its file.

  Raises:
    UserError: if the file is missing, damaged or another network, or onnxruntime is not installed.
  """

  def __init__(self, path: str | os.PathLike = ""):
    content = _content(find(path))
    self.digest = digest_of(content)
    self._session: Any = open_session(content, (_INPUT,), (_NOTES, _ONSETS), _GIVEN_BY)

  def __call__(self, audio_S: np.ndarray) -> Posteriors:
    """Hears a clip, brought to one level, so that quiet music has notes too.

    Passes overlap. A clip is followed by silence to the end of its last pass, and so are its
    frames.

    Args:
      audio_S: Mono audio [samples] at 22,050 Hz.
    """
    level = np.sqrt(np.mean(np.square(audio_S))) + 1e-9  # silence stays silent
    overlap = _CUT * HOP
    padded = np.pad(np.asarray(audio_S / level * _LEVEL, np.float32), (overlap, _WINDOW))
    passes = []
    # One pass at a time: rows of a larger batch would differ in their last digits.
    for start in range(0, len(padded) - _WINDOW, _WINDOW - 2 * overlap):
      window = padded[start : start + _WINDOW]
      found = self._session.run([_NOTES, _ONSETS], {_INPUT: window[None, :, None]})
      passes.append([rows[0, _CUT:-_CUT] for rows in found])
    notes, onsets = zip(*passes, strict=True)
    return Posteriors(np.concatenate(notes), np.concatenate(onsets))


def _content(path: pathlib.Path) -> bytes:
  if path.suffix != ".whl":
    return path.read_bytes()
  try:
    with zipfile.ZipFile(path) as wheel:
      return wheel.read(_FILE)
  except (zipfile.BadZipFile, KeyError) as error:
    raise UserError(f"{path} is no wheel of basic-pitch ({_GIVEN_BY})") from error
