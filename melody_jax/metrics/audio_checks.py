"""Is a generated waveform music at all? Silence, clipping and constancy."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class AudioChecks:
  """What is plainly wrong with a waveform; see `check_audio`.

  Attributes:
    rms_db: root mean square over the whole clip, dB relative to full scale.
    peak: largest absolute sample.
    clipped_share: share of samples in runs of three or more at the ceiling.
    level_range_db: spread between the 95th and 5th percentile of 50 ms levels, dB.
    spectral_change_db: mean change of the log spectrum between 0.5 s blocks, dB.
    finite, silent, clipped, constant: the verdicts.
  """

  rms_db: float
  peak: float
  clipped_share: float
  level_range_db: float
  spectral_change_db: float
  finite: bool
  silent: bool
  clipped: bool
  constant: bool

  @property
  def ok(self) -> bool:
    """Finite, and neither silent, clipped nor constant."""
    return self.finite and not (self.silent or self.clipped or self.constant)


def _clipped_share(audio_S: np.ndarray, ceiling: float) -> float:
  """Share of samples in runs of >= 3 consecutive samples of one sign at the ceiling."""
  share = 0
  for at_ceiling in (audio_S >= ceiling, audio_S <= -ceiling):
    edges = np.diff(np.concatenate([[0], at_ceiling.astype(np.int8), [0]]))
    runs = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    share += int(runs[runs >= 3].sum())
  return share / max(1, len(audio_S))


def _block_levels_db(audio_S: np.ndarray, block: int) -> np.ndarray:
  n = max(1, len(audio_S) // block)
  blocks = audio_S[: n * block].reshape(n, -1)
  return 10.0 * np.log10(np.mean(np.square(blocks), axis=-1) + 1e-12)


def _spectral_change_db(audio_S: np.ndarray, sample_rate: int) -> float:
  """Mean absolute change of third-octave-like band levels between successive 0.5 s blocks."""
  block = sample_rate // 2
  n = len(audio_S) // block
  if n < 2:
    return 0.0
  power = np.square(np.abs(np.fft.rfft(audio_S[: n * block].reshape(n, block), axis=-1)))
  edges = np.unique(np.geomspace(20, power.shape[1] - 1, 25).astype(int))
  bands = np.add.reduceat(power, edges, axis=-1)[:, :-1]
  levels = 10.0 * np.log10(bands / block**2 + 1e-12)
  return float(np.mean(np.abs(np.diff(levels, axis=0))))


def check_audio(
  audio_S: np.ndarray,
  sample_rate: int,
  silent_db: float = -60.0,
  ceiling: float = 0.999,
  clipped_share: float = 1e-3,
  constant_db: float = 0.5,
) -> AudioChecks:
  """Tests a mono waveform for the faults that need no reference.

  Args:
    audio_S: [samples], nominal range [-1, 1].
    sample_rate: Hz.
    silent_db: silent if the RMS level is below this (dB full scale).
    ceiling: absolute value that counts as full scale.
    clipped_share: clipped if more than this share of samples lies in runs of three or
      more at the ceiling.
    constant_db: constant (a drone of unchanging level and spectrum, or DC) if both the
      level range and the spectral change stay under this many dB.

  Returns:
    The measures and verdicts.

  Raises:
    ValueError: the waveform is empty or not 1-D.
  """
  audio = np.asarray(audio_S, np.float64)
  if audio.ndim != 1 or not audio.size:
    raise ValueError(f"check_audio needs a non-empty 1-D waveform, got shape {audio.shape}")
  finite = bool(np.isfinite(audio).all())
  audio = np.nan_to_num(audio, nan=0.0, posinf=1.0, neginf=-1.0)
  rms_db = float(10.0 * np.log10(np.mean(np.square(audio)) + 1e-12))
  share = _clipped_share(audio, ceiling)
  levels = _block_levels_db(audio, max(1, sample_rate // 20))
  level_range = float(np.percentile(levels, 95) - np.percentile(levels, 5))
  change = _spectral_change_db(audio, sample_rate)
  return AudioChecks(
    rms_db=rms_db,
    peak=float(np.max(np.abs(audio))),
    clipped_share=share,
    level_range_db=level_range,
    spectral_change_db=change,
    finite=finite,
    silent=rms_db < silent_db,
    clipped=share > clipped_share,
    constant=level_range < constant_db and change < constant_db,
  )
