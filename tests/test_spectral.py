"""Spectrograms against librosa, and both ways of framing against each other."""

import jax
import librosa
import numpy as np
import pytest
from scipy import signal

from melody_jax import spectral


def test_stft_and_log_mel_equal_librosa():
  x = np.random.default_rng(0).normal(size=6000).astype(np.float32)
  expected = np.abs(librosa.stft(x, n_fft=512, hop_length=128, pad_mode="reflect")).T
  magnitude = np.asarray(spectral.stft_magnitude(x[None], 512, 128))[0]
  np.testing.assert_allclose(magnitude, expected, atol=2e-3)
  mel = np.asarray(spectral.log_mel(x[None], 24_000, 512, 512, 128, 40))[0]
  filters = librosa.filters.mel(sr=24_000, n_fft=512, n_mels=40)
  np.testing.assert_allclose(mel, np.log(np.maximum(expected @ filters.T, 1e-5)), atol=1e-3)


def test_frames_agree_whether_the_window_is_whole_hops_or_not():
  x = jax.random.normal(jax.random.key(0), (2, 100))
  for window, hop in ((24, 8), (25, 8)):
    frames = spectral.frame(x, window, hop)
    assert frames.shape == (2, 1 + (100 - window) // hop, window)
    for i in range(frames.shape[1]):
      np.testing.assert_array_equal(frames[:, i], x[:, i * hop : i * hop + window])


@pytest.mark.parametrize(
  ("rate_in", "rate_out", "samples"),
  [(24_000, 16_000, 24_001), (24_000, 16_000, 100), (16_000, 24_000, 5000), (44_100, 16_000, 9000)],
)
def test_resampling_is_the_polyphase_filter_of_scipy(rate_in, rate_out, samples):
  x = np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32)
  ratio = np.gcd(rate_in, rate_out)
  up, down = rate_out // ratio, rate_in // ratio
  taps = spectral.resampling_filter(up, down) / up
  expected = signal.resample_poly(x.astype(np.float64), up, down, axis=1, window=taps)
  np.testing.assert_allclose(spectral.resample(x, rate_in, rate_out), expected, atol=1e-5)


def test_the_resampling_filter_is_flat_below_and_silent_above():
  hz, response = signal.freqz(spectral.resampling_filter(2, 3), worN=1 << 14, fs=48_000)
  level = 20 * np.log10(np.abs(response) / 2 + 1e-12)
  assert np.abs(level[hz < 0.91 * 8000]).max() < 0.01
  assert level[hz > 8000].max() < -80
