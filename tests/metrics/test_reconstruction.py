"""Reconstruction measures against their closed forms."""

import librosa
import numpy as np
import pytest

from melody_jax.metrics.reconstruction import (
  BANDS,
  log_spectral_distance,
  log_spectral_distance_by_band,
  mel_distance,
  si_sdr,
  si_sdr_by_band,
  stft_distance,
)


def _noise(seed: int, n: int = 24_000) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=n) * 0.1


def test_si_sdr_of_orthogonal_noise_is_the_energy_ratio():
  x, n = _noise(0), _noise(1)
  n -= x * (n @ x) / (x @ x)
  n *= np.sqrt((x @ x) / (n @ n)) * 10 ** (-13.0 / 20)
  assert si_sdr(x, x + n) == pytest.approx(13.0, abs=1e-9)


def test_si_sdr_ignores_scale_and_sign():
  x, n = _noise(0), _noise(1) * 0.3
  assert si_sdr(x, -7.0 * (x + n)) == pytest.approx(si_sdr(x, x + n), abs=1e-9)
  assert si_sdr(x * 100, x + n) == pytest.approx(si_sdr(x, x + n), abs=1e-9)


def test_si_sdr_extremes():
  x = np.array([1.0, 0.0, 1.0, 0.0])
  assert si_sdr(x, 2.0 * x) == np.inf
  assert si_sdr(x, np.array([0.0, 1.0, 0.0, 1.0])) == -np.inf
  with pytest.raises(ValueError, match="silent"):
    si_sdr(np.zeros(4), x)
  with pytest.raises(ValueError, match="equal 1-D shapes"):
    si_sdr(x, x[:3])


def test_log_spectral_distance_of_a_gain_is_the_gain_in_db():
  x = _noise(2)
  assert log_spectral_distance(x, x) == 0.0
  for pair in ((x, 0.5 * x), (0.5 * x, x)):  # a floor under every bin of the noise
    distance = log_spectral_distance(*pair, floor_db=-200.0)
    assert distance == pytest.approx(20 * np.log10(2.0), abs=1e-6)


def test_log_spectral_distance_floor_bounds_the_distance_to_silence():
  x = np.sin(2 * np.pi * 1_000 / 24_000 * np.arange(24_000))
  # One bin in 1,025 (and its two window neighbours) is above the floor by at most 100 dB.
  distance = log_spectral_distance(x, np.zeros_like(x), floor_db=-100.0)
  assert 0 < distance < 100.0
  assert log_spectral_distance(np.zeros(5_000), np.full(5_000, 1e-9)) == 0.0


def test_log_spectral_distance_of_batches_of_frames_equals_one_batch(monkeypatch):
  x, y = _noise(3), _noise(4)
  whole = log_spectral_distance(x, y)
  monkeypatch.setattr("melody_jax.metrics.reconstruction._FRAMES_PER_BATCH", 7)
  assert log_spectral_distance(x, y) == pytest.approx(whole, abs=1e-9)


def test_log_spectral_distance_pads_short_signals():
  x = _noise(5, 100)
  assert log_spectral_distance(x, 0.1 * x, floor_db=-200.0) == pytest.approx(20.0, abs=1e-6)


def _magnitudes(x, n_fft, hop):
  """Frames within the signal, Hann window, scaled so that a sine at full scale reads 1."""
  found = librosa.stft(x, n_fft=n_fft, hop_length=hop, window="hann", center=False)
  return np.abs(found).T / (0.5 * n_fft / 2)


def test_mel_distance_equals_the_formula_on_librosas_spectra():
  x, y = _noise(6), _noise(7) * 0.3
  filters = librosa.filters.mel(sr=24_000, n_fft=2048, n_mels=80)
  filters = filters / filters.sum(axis=1, keepdims=True)
  p, q = (10 * np.log10(_magnitudes(z, 2048, 512) ** 2 @ filters.T) for z in (x, y))
  assert mel_distance(x, y, 24_000) == pytest.approx(np.abs(p - q).mean(), rel=1e-6)
  assert mel_distance(x, x, 24_000) == 0.0
  assert mel_distance(x, 0.1 * x, 24_000) == pytest.approx(20.0, rel=1e-6)


def test_stft_distance_equals_the_formula_on_librosas_spectra():
  x, y = _noise(8), _noise(9)
  found = []
  for n_fft, hop in ((512, 128), (1024, 256), (2048, 512)):
    s, t = _magnitudes(x, n_fft, hop), _magnitudes(y, n_fft, hop)
    convergence = np.linalg.norm(s - t) / np.linalg.norm(s)
    floored = [np.log(np.maximum(z, 1e-5)) for z in (s, t)]
    found.append(convergence + np.abs(floored[0] - floored[1]).mean())
  assert stft_distance(x, y) == pytest.approx(np.mean(found), rel=1e-6)
  assert stft_distance(x, x) == 0.0
  # Half as loud: half of the norm is missing, and every logarithm is ln 2 lower.
  assert stft_distance(x, 0.5 * x) == pytest.approx(0.5 + np.log(2.0), rel=1e-3)
  with pytest.raises(ValueError, match="silent"):
    stft_distance(np.zeros(4096), x[:4096])


def test_a_fault_in_one_band_shows_there_alone():
  time = np.arange(48_000) / 24_000
  parts = {name: _band_noise(i, *edges) for i, (name, edges) in enumerate(BANDS.items())}
  x = sum(parts.values())
  broken = x - 0.9 * parts["1000-4000 Hz"]
  distance = log_spectral_distance_by_band(x, broken, 24_000)
  assert set(distance) == set(BANDS)
  # Less than the 20 dB of a gain at the band's ends, where the window lets in its neighbours.
  assert distance.pop("1000-4000 Hz") == pytest.approx(20.0, abs=0.5)
  assert max(distance.values()) < 2.0
  noisy = x + 0.1 * _band_noise(9, *BANDS["20-250 Hz"])
  ratio = si_sdr_by_band(x, noisy, 24_000)
  assert ratio.pop("20-250 Hz") == pytest.approx(20.0, abs=1.0)
  assert min(ratio.values()) > 100.0
  tone = np.sin(2 * np.pi * 500 * time)
  assert set(si_sdr_by_band(tone, tone, 24_000)) == {"250-1000 Hz"}
  assert "8000-12000 Hz" not in log_spectral_distance_by_band(tone, tone, 16_000)


def _band_noise(seed, low, high):
  """Two seconds of noise of one level between two frequencies."""
  spectrum = np.fft.rfft(_noise(seed, 48_000))
  hertz = np.arange(len(spectrum)) / 2
  x = np.fft.irfft(np.where((hertz >= low) & (hertz < high), spectrum, 0.0))
  return x / x.std() * 0.1
