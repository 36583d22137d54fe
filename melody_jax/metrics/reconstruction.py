"""Distances between a reconstructed waveform and its original (docs/spec.md, section 8)."""

import numpy as np

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


def log_spectral_distance(
  reference_S: np.ndarray,
  estimate_S: np.ndarray,
  n_fft: int = 2048,
  hop: int = 512,
  floor_db: float = -100.0,
) -> float:
  """Log-spectral distance in dB: root mean square over bins, then mean over frames.

      LSD = mean_t sqrt(mean_f (10 log10 P(t, f) - 10 log10 Q(t, f))^2)

  P and Q are periodograms in which a sine at full scale reads 0 dB. Both have the floor `floor_db`,
  so that bins that are empty in both signals (band-limited sources) count as equal.

  Args:
    reference_S: Original [samples].
    estimate_S: Reconstruction [samples].
    n_fft: Frame length in samples. A shorter signal is padded with zeros to one frame.
    hop: Samples between frames.
    floor_db: Floor of both spectra, in dB relative to a sine at full scale.

  Returns:
    Distance in dB; 0 for equal spectra.

  Raises:
    ValueError: if the shapes differ.
  """
  if np.shape(reference_S) != np.shape(estimate_S) or np.ndim(reference_S) != 1:
    raise ValueError(
      f"log_spectral_distance needs two equal 1-D shapes, got {np.shape(reference_S)}, "
      f"{np.shape(estimate_S)}"
    )
  # A clip shorter than one frame still gets a number.
  missing = max(0, n_fft - len(reference_S))
  signals = [np.pad(np.asarray(x, np.float64), (0, missing)) for x in (reference_S, estimate_S)]
  n_frames = 1 + (len(signals[0]) - n_fft) // hop
  floor = 10.0 ** (floor_db / 10.0)
  total = 0.0
  # All frames of a track at once would take gigabytes.
  for first in range(0, n_frames, _FRAMES_PER_BATCH):
    last = min(first + _FRAMES_PER_BATCH, n_frames)
    log_p, log_q = (
      10.0 * np.log10(np.maximum(_power_frames(x, first, last, n_fft, hop), floor)) for x in signals
    )
    total += float(np.sqrt(np.mean(np.square(log_p - log_q), axis=-1)).sum())
  return total / n_frames
