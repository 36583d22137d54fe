"""Faults of a waveform that are found without a reference: silence, clipping, constant sound."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class AudioChecks:
  """Measures and verdicts of `check_audio` on one waveform.

  Attributes:
    rms_db: Root mean square over the whole clip, in dB relative to full scale.
    peak: Largest absolute sample.
    clipped_share: Share of the samples that lie in runs of three or more at full scale.
    level_range_db: Distance between the 95th and the 5th percentile of 50 ms levels, in dB.
    spectral_change_db: Mean change of the log spectrum between blocks of 0.5 s, in dB.
    finite: Whether no sample is NaN or infinite.
    silent: Whether the level is too low.
    clipped: Whether too many samples are clipped.
    constant: Whether neither level nor spectrum changes.
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
    """Whether the clip is finite and neither silent, clipped nor constant."""
    return self.finite and not (self.silent or self.clipped or self.constant)


def _clipped_share(audio_S: np.ndarray, ceiling: float) -> float:
  """Share of samples in runs of >= 3 consecutive samples of one sign at the ceiling."""
  share = 0
  for at_ceiling in (audio_S >= ceiling, audio_S <= -ceiling):
    # Single samples at full scale are normal in loud music; a flat top of three is not.
    edges = np.diff(np.concatenate([[0], at_ceiling.astype(np.int8), [0]]))
    runs = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    share += int(runs[runs >= 3].sum())
  return share / max(1, len(audio_S))


def _block_levels_db(audio_S: np.ndarray, block: int) -> np.ndarray:
  n = max(1, len(audio_S) // block)
  blocks = audio_S[: n * block].reshape(n, -1)
  # 1e-12 is -120 dB: silence gets a finite level.
  return 10.0 * np.log10(np.mean(np.square(blocks), axis=-1) + 1e-12)


def _spectral_change_db(audio_S: np.ndarray, sample_rate: int) -> float:
  """Mean absolute change of third-octave-like band levels between successive 0.5 s blocks."""
  block = sample_rate // 2
  n = len(audio_S) // block
  if n < 2:
    return 0.0
  power = np.square(np.abs(np.fft.rfft(audio_S[: n * block].reshape(n, block), axis=-1)))
  # Bands, not bins: the bins of noise change all the time, its bands do not.
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
  """Tests a mono waveform for faults that are found without a reference.

  Args:
    audio_S: Waveform [samples], nominally in [-1, 1].
    sample_rate: Sample rate in Hz.
    silent_db: The clip is silent if its RMS level is below this, in dB relative to full scale.
    ceiling: Absolute value that counts as full scale.
    clipped_share: The clip is clipped if more than this share of its samples lies in runs of three
      or more at the ceiling.
    constant_db: The clip is constant (a drone, or DC) if its level range and its spectral change
      are both under this many dB.

  Returns:
    The measures and verdicts.

  Raises:
    ValueError: if the waveform is empty or not one-dimensional.
  """
  audio = np.asarray(audio_S, np.float64)
  if audio.ndim != 1 or not audio.size:
    raise ValueError(f"check_audio needs a non-empty 1-D waveform, got shape {audio.shape}")
  finite = bool(np.isfinite(audio).all())
  # The other measures must still be numbers, to be written as JSON.
  audio = np.nan_to_num(audio, nan=0.0, posinf=1.0, neginf=-1.0)
  rms_db = float(10.0 * np.log10(np.mean(np.square(audio)) + 1e-12))
  share = _clipped_share(audio, ceiling)
  # Blocks of 50 ms: shorter than a note, longer than a period of the lowest tone.
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
    # Both must stand still: music of one level still changes its spectrum.
    constant=level_range < constant_db and change < constant_db,
  )
