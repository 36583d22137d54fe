"""Levels a stream that cannot be levelled by what comes later.

Each chunk is brought towards a loudness by the window that it lies in. All of the first 10 s is
there before the first chunk is given; a later window holds one chunk more than was given. So a
stream may wander in level for hours and is heard at one loudness; within some seconds its
dynamics stay as they are.
"""

import numpy as np

from melody_jax import audio_io

KNEE = 0.9  # of full scale, from where on peaks are bent
MAX_STEP_DB = 3.0  # that the gain changes in a chunk


def soft_limit(audio_T: np.ndarray) -> np.ndarray:
  """Samples [T] under the knee as they are, others bent towards `audio_io.PEAK_LIMIT`."""
  room = audio_io.PEAK_LIMIT - KNEE
  # A tanh has slope 1 at the knee: the curve bends without a corner, which would be heard.
  over = np.maximum(np.abs(audio_T) - KNEE, 0.0)
  bent = np.sign(audio_T) * (KNEE + room * np.tanh(over / room))
  return np.where(over > 0, bent, audio_T).astype(np.float32)


class StreamLeveller:
  """Chunk after chunk of one stream, to one loudness and under full scale.

  The gain moves evenly, in dB, over a chunk and by `MAX_STEP_DB` at most; where a window is silent
  it stays.

  Args:
    sample_rate: Sample rate in Hz.
    lufs: Loudness of the result (ITU-R BS.1770); None: the level stays, peaks are bent.
  """

  def __init__(self, sample_rate: int, lufs: float | None):
    self._sample_rate, self._lufs = sample_rate, lufs
    self._gain_db: float | None = None

  def __call__(self, chunk_T: np.ndarray, window_T: np.ndarray) -> np.ndarray:
    """The chunk [T] as it is to be written.

    Args:
      chunk_T: Next samples of the stream.
      window_T: Samples of the 10 s that they lie in (`StreamState.audio`).
    """
    if self._lufs is None:
      return soft_limit(chunk_T)
    before = self._gain_db
    # A silent window says nothing about level.
    after = before or 0.0
    if not audio_io.is_silent(window_T):
      # Peaks are the limiter's: a gain that yields to them would follow every attack.
      after = self._lufs - audio_io.loudness(window_T, self._sample_rate)
    # The first chunk has no gain to come from: it begins at its own.
    if before is None:
      before = after
    after = float(np.clip(after, before - MAX_STEP_DB, before + MAX_STEP_DB))
    self._gain_db = after
    # Even in dB, as loudness is heard.
    gains_T = 10 ** (np.linspace(before, after, len(chunk_T), dtype=np.float32) / 20)
    return soft_limit(gains_T * chunk_T)
