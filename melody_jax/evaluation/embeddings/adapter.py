"""What a comparison of clips asks of an embedding, and the windows that most adapters cut."""

import hashlib
from typing import Protocol

import numpy as np


class AudioEmbedding(Protocol):
  """An embedding of audio: a few vectors a clip, one a window.

  Attributes:
    name: What results are labelled with.
    sample_rate: Sample rate in Hz of the audio that it takes.
    digest: Hash of all that makes its vectors: results of another hash do not compare.
  """

  name: str
  sample_rate: int
  digest: str

  def __call__(self, audio_S: np.ndarray) -> np.ndarray:
    """Embeds one clip.

    Args:
      audio_S: Mono audio [samples] at `sample_rate`, in [-1, 1], at least 0.1 s.

    Returns:
      float32 [windows, dimensions], at least one window: a clip that is shorter than a window is
      repeated or filled up.
    """
    ...


def digest_of(*arrays: np.ndarray | bytes) -> str:
  """SHA-256 of the contents of arrays of any shape, or of bytes, in order."""
  found = hashlib.sha256()
  for array in arrays:
    found.update(array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes())
  return found.hexdigest()


def cut_windows(audio_S: np.ndarray, window: int, hop: int) -> np.ndarray:
  """Windows that cover a clip, the last one flush with its end; a short clip is repeated.

  Args:
    audio_S: Audio [samples].
    window: Samples of a window.
    hop: Samples between the starts of two windows.

  Returns:
    The windows [W, window].
  """
  if len(audio_S) < window:
    audio_S = np.resize(audio_S, window)
  last = len(audio_S) - window
  starts = sorted({*range(0, last + 1, hop), last})
  return np.stack([audio_S[s : s + window] for s in starts])
