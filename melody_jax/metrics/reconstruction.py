"""Distances between a reconstructed waveform and its original (docs/spec.md, section 8)."""

from collections.abc import Iterator, Mapping
import functools

import numpy as np

# Hz, from and up to: bass, low and high middle, presence, brilliance of audio at 24 kHz.
BANDS: Mapping[str, tuple[float, float]] = {
  "20-250 Hz": (20.0, 250.0),
  "250-1000 Hz": (250.0, 1_000.0),
  "1000-4000 Hz": (1_000.0, 4_000.0),
  "4000-8000 Hz": (4_000.0, 8_000.0),
  "8000-12000 Hz": (8_000.0, 12_000.0),
}
STFT_RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # (n_fft, hop) in samples
_N_FFT, _HOP = 2048, 512  # samples of a frame and between frames, of all other distances
_N_MELS = 80
_FLOOR_DB = -100.0
_FRAMES_PER_BATCH = 4096  # bounds the memory of the spectra of a whole track


def si_sdr(reference_S: np.ndarray, estimate_S: np.ndarray) -> float:
  """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, arXiv 1811.02508).

      a = <estimate, reference> / |reference|^2
      SI-SDR = 10 log10(|a reference|^2 / |a reference - estimate|^2)

  Args:
    reference_S: Original [samples]; its mean is not removed.
    estimate_S: Reconstruction [samples].

  Returns:
    Ratio in dB. It is inf for a scaled copy and -inf for an estimate that is orthogonal to the
    reference.

  Raises:
    ValueError: if the shapes differ, or the reference is all zeros and the ratio is undefined.
  """
  # float64: sums over minutes of audio, and differences of nearly equal signals.
  reference = np.asarray(reference_S, np.float64)
  estimate = np.asarray(estimate_S, np.float64)
  if reference.shape != estimate.shape or reference.ndim != 1:
    raise ValueError(f"si_sdr needs two equal 1-D shapes, got {reference.shape}, {estimate.shape}")
  energy = float(reference @ reference)
  if energy == 0.0:
    raise ValueError("si_sdr of a silent reference is undefined")
  # Scaled to the estimate: a codec that is only quieter must not lose by it.
  target = (float(estimate @ reference) / energy) * reference
  distortion = estimate - target
  with np.errstate(divide="ignore"):
    return float(10.0 * np.log10(target @ target) - 10.0 * np.log10(distortion @ distortion))


def _power_frames(audio_S: np.ndarray, first: int, last: int, n_fft: int, hop: int) -> np.ndarray:
  window = np.hanning(n_fft + 1)[:-1]
  starts = np.arange(first, last)[:, None] * hop
  frames = audio_S[starts + np.arange(n_fft)[None, :]] * window[None, :]
  # So scaled a sine at full scale reads 0 dB, whatever the window's length.
  spectrum = np.fft.rfft(frames, axis=-1) / (0.5 * window.sum())
  return np.square(np.abs(spectrum))


def _checked(
  name: str, reference_S: np.ndarray, estimate_S: np.ndarray, n_fft: int
) -> tuple[np.ndarray, np.ndarray]:
  """Both signals in float64, padded with zeros to one frame where they are shorter."""
  if np.shape(reference_S) != np.shape(estimate_S) or np.ndim(reference_S) != 1:
    raise ValueError(
      f"{name} needs two equal 1-D shapes, got {np.shape(reference_S)}, {np.shape(estimate_S)}"
    )
  # A clip shorter than one frame still gets a number.
  missing = (0, max(0, n_fft - len(reference_S)))
  reference, estimate = (
    np.pad(np.asarray(x, np.float64), missing) for x in (reference_S, estimate_S)
  )
  return reference, estimate


def _power_pairs(
  signals: tuple[np.ndarray, np.ndarray], n_fft: int, hop: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Periodograms [frames, bins] of both signals, some frames at a time."""
  n_frames = 1 + (len(signals[0]) - n_fft) // hop
  # All frames of a track at once would take gigabytes.
  for first in range(0, n_frames, _FRAMES_PER_BATCH):
    last = min(first + _FRAMES_PER_BATCH, n_frames)
    reference, estimate = (_power_frames(x, first, last, n_fft, hop) for x in signals)
    yield reference, estimate


def log_spectral_distance(
  reference_S: np.ndarray, estimate_S: np.ndarray, floor_db: float = _FLOOR_DB
) -> float:
  """Log-spectral distance in dB: root mean square over bins, then mean over frames.

      LSD = mean_t sqrt(mean_f (10 log10 P(t, f) - 10 log10 Q(t, f))^2)

  P and Q are periodograms in which a sine at full scale reads 0 dB. Both have the floor `floor_db`,
  so that bins that are empty in both signals (band-limited sources) count as equal. A signal that
  is shorter than a frame of 2,048 samples is padded with zeros to one.

  Args:
    reference_S: Original [samples].
    estimate_S: Reconstruction [samples].
    floor_db: Floor of both spectra, in dB relative to a sine at full scale.

  Returns:
    Distance in dB; 0 for equal spectra.

  Raises:
    ValueError: if the shapes differ.
  """
  whole = np.ones(_N_FFT // 2 + 1, bool)
  return _distances(reference_S, estimate_S, {"": whole}, floor_db)[""]


def _distances(
  reference_S: np.ndarray,
  estimate_S: np.ndarray,
  bins: Mapping[str, np.ndarray],
  floor_db: float,
) -> dict[str, float]:
  """Log-spectral distance over some bins, bool [_N_FFT // 2 + 1] each."""
  signals = _checked("log_spectral_distance", reference_S, estimate_S, _N_FFT)
  floor = 10.0 ** (floor_db / 10.0)
  total, n_frames = dict.fromkeys(bins, 0.0), 0
  for pair in _power_pairs(signals, _N_FFT, _HOP):
    log_p, log_q = (10.0 * np.log10(np.maximum(power, floor)) for power in pair)
    squared = np.square(log_p - log_q)
    n_frames += len(squared)
    for name, chosen in bins.items():
      total[name] += float(np.sqrt(squared[:, chosen].mean(axis=-1)).sum())
  return {name: value / n_frames for name, value in total.items()}


def log_spectral_distance_by_band(
  reference_S: np.ndarray, estimate_S: np.ndarray, sample_rate: int
) -> dict[str, float]:
  """`log_spectral_distance` over the bins of each of BANDS that the sample rate has, in dB.

  The lower end belongs to a band, the upper does not.

  Args:
    reference_S: Original [samples].
    estimate_S: Reconstruction [samples].
    sample_rate: Sample rate in Hz.

  Raises:
    ValueError: if the shapes differ.
  """
  hertz = np.arange(_N_FFT // 2 + 1) * sample_rate / _N_FFT
  bins = {
    name: (hertz >= low) & (hertz < high)
    for name, (low, high) in BANDS.items()
    if low < sample_rate / 2
  }
  return _distances(reference_S, estimate_S, bins, _FLOOR_DB)


def si_sdr_by_band(
  reference_S: np.ndarray, estimate_S: np.ndarray, sample_rate: int
) -> dict[str, float]:
  """`si_sdr` of both signals cut to each of BANDS by their Fourier transforms, in dB.

  Bands in which the original is silent have no ratio and are left out.

  Args:
    reference_S: Original [samples].
    estimate_S: Reconstruction [samples].
    sample_rate: Sample rate in Hz.

  Raises:
    ValueError: if the shapes differ.
  """
  signals = _checked("si_sdr_by_band", reference_S, estimate_S, 1)
  n = len(signals[0])
  spectra = [np.fft.rfft(x) for x in signals]
  hertz = np.arange(n // 2 + 1) * sample_rate / n
  found = {}
  for name, (low, high) in BANDS.items():
    inside = (hertz >= low) & (hertz < high) & (low < sample_rate / 2)
    reference, estimate = (np.fft.irfft(np.where(inside, x, 0.0), n) for x in spectra)
    # Rounding of the transforms is no music.
    if np.square(reference).mean() > 1e-16:
      found[name] = si_sdr(reference, estimate)
  return found


@functools.cache
def _mel_filters(sample_rate: int) -> np.ndarray:
  """Slaney's triangles with a sum of 1 each, float64 [bins, bands that hold a bin]."""
  import librosa

  filters = librosa.filters.mel(sr=sample_rate, n_fft=_N_FFT, n_mels=_N_MELS).T.astype(np.float64)
  # Low bands are narrower than a bin and some hold none.
  filters = filters[:, filters.any(axis=0)]
  return filters / filters.sum(axis=0, keepdims=True)


def mel_distance(reference_S: np.ndarray, estimate_S: np.ndarray, sample_rate: int) -> float:
  """Mean absolute difference of 80 log mel powers in dB, over bands and frames.

      mean_{t, m} |10 log10 max(P(t) W_m, floor) - 10 log10 max(Q(t) W_m, floor)|

  The W_m are Slaney's triangles scaled to a sum of 1, so that each band is a weighted mean of the
  periodogram of `log_spectral_distance`, with its floor of -100 dB.

  Args:
    reference_S: Original [samples].
    estimate_S: Reconstruction [samples].
    sample_rate: Sample rate in Hz.

  Raises:
    ValueError: if the shapes differ.
  """
  signals = _checked("mel_distance", reference_S, estimate_S, _N_FFT)
  filters = _mel_filters(sample_rate)
  total, count = 0.0, 0
  for pair in _power_pairs(signals, _N_FFT, _HOP):
    log_p, log_q = (
      10.0 * np.log10(np.maximum(x @ filters, 10.0 ** (_FLOOR_DB / 10))) for x in pair
    )
    total += float(np.abs(log_p - log_q).sum())
    count += log_p.size
  return total / count


def stft_distance(reference_S: np.ndarray, estimate_S: np.ndarray) -> float:
  """Multi-resolution STFT distance (Yamamoto et al. 2020, arXiv 1910.11480), without a unit.

      mean over STFT_RESOLUTIONS of  |S - T|_F / |S|_F + mean_{t, f} |ln S(t, f) - ln T(t, f)|

  S and T are magnitudes of the original and the reconstruction, the logarithms of both with a floor
  of -100 dB.

  Args:
    reference_S: Original [samples], not silent.
    estimate_S: Reconstruction [samples].

  Raises:
    ValueError: if the shapes differ, or the reference is silent.
  """
  floor = 10.0 ** (_FLOOR_DB / 20.0)
  found = []
  for n_fft, hop in STFT_RESOLUTIONS:
    error = energy = absolute = 0.0
    count = 0
    for pair in _power_pairs(_checked("stft_distance", reference_S, estimate_S, n_fft), n_fft, hop):
      s, t = (np.sqrt(power) for power in pair)
      error += float(np.square(s - t).sum())
      energy += float(np.square(s).sum())
      absolute += float(np.abs(np.log(np.maximum(s, floor)) - np.log(np.maximum(t, floor))).sum())
      count += s.size
    if not energy:
      raise ValueError("stft_distance of a silent reference is undefined")
    found.append(np.sqrt(error / energy) + absolute / count)
  return float(np.mean(found))
