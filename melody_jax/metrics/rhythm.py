"""Onsets of a clip: how many there are, and how periodic they are at a tempo that music has."""

import numpy as np

SAMPLE_RATE = 22_050  # Hz of the audio that `beat_strength` takes
_HOP = 512
_SLOWEST, _FASTEST = 40.0, 240.0  # beats a minute
_FEWEST_BEATS = 3  # of the slowest tempo in a clip that is measured


def onset_rate(audio_S: np.ndarray) -> float:
  """Onsets a second: peaks of the onset envelope (librosa's spectral flux of mel bands).

  Args:
    audio_S: Mono audio [samples] at 22,050 Hz.
  """
  import librosa

  found = librosa.onset.onset_detect(
    y=np.asarray(audio_S, np.float32), sr=SAMPLE_RATE, hop_length=_HOP, units="frames"
  )
  return len(found) / (len(audio_S) / SAMPLE_RATE)


def beat_strength(audio_S: np.ndarray) -> tuple[float, float] | None:
  """Height of the strongest period of the onset envelope, and its tempo.

      r(l) = sum_t o(t) o(t + l) / (T - l)  /  (sum_t o(t)^2 / T),   o without its mean

  The strength is the largest r at lags of 40 to 240 beats a minute: near 1 for a drum machine, near
  0 for noise. The envelope is librosa's (spectral flux of mel bands).

  Args:
    audio_S: Mono audio [samples] at 22,050 Hz.

  Returns:
    (strength, beats a minute), or None for a clip under 4.5 s, or one without onsets.
  """
  import librosa

  frame_rate = SAMPLE_RATE / _HOP
  if len(audio_S) < _FEWEST_BEATS * 60.0 / _SLOWEST * SAMPLE_RATE:
    return None
  onsets = librosa.onset.onset_strength(y=np.asarray(audio_S, np.float32), sr=SAMPLE_RATE)
  onsets = onsets - onsets.mean()
  energy = float(np.square(onsets).mean())
  if not energy > 1e-10:
    return None
  slowest = int(frame_rate * 60.0 / _SLOWEST)
  lags = np.arange(int(np.ceil(frame_rate * 60.0 / _FASTEST)), slowest + 1)
  summed = librosa.autocorrelate(onsets, max_size=slowest + 1)
  # Divided by the number of products: late lags have fewer, and slow music must not lose by it.
  strengths = summed[lags] / (len(onsets) - lags) / energy
  best = int(strengths.argmax())
  return float(strengths[best]), float(60.0 * frame_rate / lags[best])
