"""Reconstruction measures against their closed forms."""

import numpy as np
import pytest

from melody_jax.metrics.reconstruction import log_spectral_distance, si_sdr


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
