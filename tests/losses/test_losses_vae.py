"""Losses of the VAE-GAN against direct evaluations of their formulas in NumPy, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.losses import adversarial, spectral
from tests.configs import load_config

PAPER = load_config("vae", "paper").loss


def test_weights_and_transforms_are_the_appendix():
  weights = (PAPER.stft, PAPER.feature_matching, PAPER.adversarial, PAPER.kl)
  assert weights == (50, 20, 1, 5e-3) and not PAPER.relative_matching
  sizes, windows, hops = zip(*PAPER.stft_resolutions, strict=True)
  assert sizes == (8192, 4096, 2048, 512, 128, 64, 32)
  assert windows == (4096, 2048, 1024, 256, 64, 32, 16)
  assert hops == (2048, 1024, 512, 128, 32, 16, 8)


def magnitudes(audio, n_fft, window, hop):
  """|STFT| of one waveform by its definition: frames about every hop, Hann, the ends reflected."""
  padded = np.pad(audio, window // 2, mode="reflect")
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  starts = range(0, len(padded) - window + 1, hop)
  return np.array([np.abs(np.fft.rfft(hann * padded[s : s + window], n_fft)) for s in starts])


def test_sum_of_seven_stfts():
  rng = np.random.default_rng(0)
  target, estimate = 0.2 * rng.normal(size=(2, 2, 9600))
  expected = sum(
    np.mean(
      [np.abs(magnitudes(x, *sizes) - magnitudes(y, *sizes)) for x, y in zip(target, estimate)]
    )
    for sizes in PAPER.stft_resolutions
  )
  found = spectral.stft_loss(jnp.asarray(target), jnp.asarray(estimate), PAPER.stft_resolutions)
  assert float(found) == pytest.approx(expected, rel=1e-5)
  assert float(spectral.stft_loss(target, target, PAPER.stft_resolutions)) == 0.0


def judgements(seed):
  """Three judges of two maps and logits each, of unequal sizes."""
  rng = np.random.default_rng(seed)
  return [
    (rng.normal(size=(2, 3 + i)), [rng.normal(size=(2, 5 + i, 4)), 3 * rng.normal(size=(2, 7 + i))])
    for i in range(3)
  ]


def test_least_squares_is_a_sum_over_discriminators():
  real, fake = judgements(0), judgements(1)
  caught = sum(np.mean((r - 1) ** 2) + np.mean(f**2) for (r, _), (f, _) in zip(real, fake))
  fooled = sum(np.mean((f - 1) ** 2) for f, _ in fake)
  assert float(adversarial.discriminator_loss(real, fake)) == pytest.approx(caught, rel=1e-5)
  assert float(adversarial.generator_loss(fake)) == pytest.approx(fooled, rel=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_feature_matching_is_a_sum_of_means_over_layers(relative):
  real, fake = judgements(0), judgements(1)
  expected = 0.0
  for (r, maps), (f, others) in zip(real, fake):
    layers = list(zip([*maps, r], [*others, f]))
    size = [np.mean(np.abs(a)) if relative else 1.0 for a, _ in layers]
    expected += np.mean([np.mean(np.abs(a - b)) / s for (a, b), s in zip(layers, size)])
  found = adversarial.feature_matching_loss(real, fake, relative)
  assert float(found) == pytest.approx(expected, rel=1e-5)


def test_divergence_from_a_standard_normal():
  rng = np.random.default_rng(0)
  mean, log_variance = rng.normal(size=(2, 3, 5, 4))
  # Of each value: the integral of q log(q / p) has this closed form.
  expected = np.mean(0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance))
  found = float(spectral.kl_loss(jnp.asarray(mean), jnp.asarray(log_variance)))
  assert found == pytest.approx(expected, rel=1e-5)
  assert float(spectral.kl_loss(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)))) == 0.0


def test_weighted_squares_of_log_magnitudes():
  rng = np.random.default_rng(0)
  target, estimate = rng.normal(size=(2, 2, 4, 6))
  weights = rng.uniform(0.5, 2.0, 6)
  expected = np.mean(((target - estimate) * weights) ** 2)
  found = spectral.spectrum_loss(jnp.asarray(target), jnp.asarray(estimate), jnp.asarray(weights))
  assert float(found) == pytest.approx(expected, rel=1e-5)
