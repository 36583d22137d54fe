"""CLAP, an embedding of sound shared with text, by an ONNX file that the user has.

Wu et al. 2023 (arXiv 2211.06687), the LAION checkpoints without fusion. The file is the audio tower
as the exporters of transformers write it: `input_features` [B, 1, 1001, 64] in, `audio_embeds` out.
"""

import os
import pathlib

import numpy as np

from melody_jax.evaluation.embeddings.adapter import cut_windows, digest_of
from melody_jax.host.onnx_files import open_session

SAMPLE_RATE = 48_000
_WINDOW = 10 * SAMPLE_RATE
_N_FFT, _HOP, _N_MELS = 1024, 480, 64
_F_MIN, _F_MAX = 50.0, 14_000.0


def features(audio_S: np.ndarray) -> np.ndarray:
  """The tower's input: decibels of Slaney's mel bands of windows of 10 s, half a window apart.

  Args:
    audio_S: Audio [samples] at 48 kHz. A clip shorter than a window is repeated as often as it fits
      in whole; silence follows, as in training.

  Returns:
    float32 [windows, 1, 1001, 64].
  """
  import librosa

  if len(audio_S) < _WINDOW:
    audio_S = np.tile(audio_S, _WINDOW // len(audio_S))
    audio_S = np.pad(audio_S, (0, _WINDOW - len(audio_S)))
  windows = []
  for window_S in cut_windows(audio_S, _WINDOW, _WINDOW // 2):
    mel = librosa.feature.melspectrogram(
      y=window_S,
      sr=SAMPLE_RATE,
      n_fft=_N_FFT,
      hop_length=_HOP,
      n_mels=_N_MELS,
      fmin=_F_MIN,
      fmax=_F_MAX,
      pad_mode="reflect",
    )
    windows.append(librosa.power_to_db(mel, top_db=None).T[None])
  return np.stack(windows).astype(np.float32)


class ClapEmbedding:
  """The audio tower of a CLAP.

  Args:
    path: Its ONNX file.

  Raises:
    UserError: if onnxruntime is not installed, or the file is missing, damaged or another network.
  """

  name = "CLAP"
  sample_rate = SAMPLE_RATE

  def __init__(self, path: str | os.PathLike):
    path = pathlib.Path(path)
    self._session = open_session(path, ("input_features",), ("audio_embeds",), "clap=FILE")
    self.digest = digest_of(path.read_bytes())

  def __call__(self, audio_S: np.ndarray) -> np.ndarray:
    """Audio [samples] at 48 kHz -> float32 [windows, dimensions]."""
    rows = features(audio_S)
    # One at a time: exporters may fix the number of rows.
    found = [self._session.run(["audio_embeds"], {"input_features": row[None]})[0] for row in rows]
    return np.concatenate(found)
