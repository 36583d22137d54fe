"""Errors of predictors without a network: closed forms against draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax import diffusion
from melody_jax.metrics import diffusion as metrics


def test_closed_forms_equal_draws():
  std, count = np.array([0.2, 0.5]), 100_000
  z, noise = np.random.default_rng(0).normal(size=(2, 1, count, 2)).astype(np.float32)
  z = jnp.asarray(z * std + 0.3, jnp.float32)
  variance = jnp.asarray(std**2, jnp.float32)
  for angle in (0.1, 0.8, 1.5):
    delta = jnp.full((1, count), angle)
    v = np.asarray(diffusion.velocity(z, noise, delta))[0]
    noisy = np.asarray(diffusion.add_noise(z, noise, delta))[0]
    constant = v.var(axis=0).mean()
    np.testing.assert_allclose(
      metrics.constant_predictor_error(variance, delta[0, 0]), constant, rtol=0.02
    )
    slope = np.polyfit(noisy[:, 1], v[:, 1], 1)[0]
    np.testing.assert_allclose(
      metrics.linear_predictor_gain(variance, delta[0, 0])[1], slope, atol=0.01
    )


def test_buckets_average_to_the_whole():
  delta = jax.random.uniform(jax.random.key(0), (5, 40), maxval=diffusion.HALF_PI)
  errors = 2.0 + delta
  buckets = metrics.by_angle(errors, delta, 4)
  np.testing.assert_allclose(jnp.mean(buckets), jnp.mean(errors), rtol=1e-5)
  only_first = metrics.by_angle(errors, jnp.zeros_like(delta), 4)
  np.testing.assert_allclose(only_first[1:], 0.0)


def test_si_snr_of_vectors_by_hand():
  # <z_hat, z> = 4 and |z|^2 = 4, so a = 1: what is left of (3, 1, 0, 0) is (2, 0, -1, -1).
  z = jnp.asarray([1.0, 1.0, 1.0, 1.0]).reshape(1, 2, 2)
  estimate = jnp.asarray([3.0, 1.0, 0.0, 0.0]).reshape(1, 2, 2)
  expected = 10 * np.log10(4 / 6)
  np.testing.assert_allclose(metrics.si_snr(estimate, z, 1), [[expected]], rtol=1e-5)
  # No scale of either matters; a perfect estimate and one that has nothing of it are bounded.
  np.testing.assert_allclose(metrics.si_snr(-5 * estimate, 2 * z, 1), [[expected]], rtol=1e-5)
  across = jnp.asarray([1.0, -1.0, 1.0, -1.0]).reshape(1, 2, 2)
  np.testing.assert_allclose(metrics.si_snr(2 * z, z, 1), [[metrics.SI_SNR_LIMIT]])
  np.testing.assert_allclose(metrics.si_snr(across, z, 1), [[-metrics.SI_SNR_LIMIT]])
  assert float(metrics.si_snr(0 * z, 0 * z, 1)[0, 0]) == 0.0
  # Two chunks of one frame each: a = 2 leaves (1, -1) of (3, 1); a = 0 leaves nothing of (0, 0).
  np.testing.assert_allclose(metrics.si_snr(estimate, z, 2), [[10 * np.log10(4), 0.0]], rtol=1e-5)


def expected_si_snr(weight, variance, delta):
  """SI-SNR of weight z_delta, in dB, where energies are as expected.

  a = sum w c s^2 / sum s^2; |z_hat|^2 = sum w^2 (c^2 s^2 + sin^2); the rest is noise.
  """
  cos2, sin2 = np.cos(delta) ** 2, np.sin(delta) ** 2
  a = (weight * np.sqrt(cos2) * variance).sum() / variance.sum()
  signal = a**2 * variance.sum()
  return 10 * np.log10(signal / ((weight**2 * (cos2 * variance + sin2)).sum() - signal))


@pytest.mark.parametrize("angle", [0.2, 0.8, 1.4])
def test_velocity_error_and_gain_of_a_known_posterior(angle):
  """z ~ N(0, s^2), a channel each: E[z | z_delta] = c s^2 / (c^2 s^2 + sin^2) z_delta."""
  std, count = np.array([0.1, 0.5, 1.5]), 200_000
  z, noise = np.random.default_rng(0).normal(size=(2, 1, count, 3))
  z, noise = jnp.asarray(z * std, jnp.float32), jnp.asarray(noise, jnp.float32)
  delta = jnp.full((1, count), angle)
  noisy = diffusion.add_noise(z, noise, delta)
  v = metrics.linear_predictor_gain(jnp.asarray(std**2, jnp.float32), delta) * noisy
  cos, sin, variance = np.cos(angle), np.sin(angle), std**2
  power = cos**2 * variance + sin**2
  # The best velocity leaves s^2 / power of each channel, and its clean latents are the posterior's
  # mean.
  error = np.mean(np.square(v - diffusion.velocity(z, noise, delta)))
  np.testing.assert_allclose(error, np.mean(variance / power), rtol=0.02)
  weight = cos * variance / power
  mean = weight * np.asarray(noisy)
  np.testing.assert_allclose(diffusion.angle_step(noisy, v, delta), mean, atol=2e-5)
  by_hand = expected_si_snr(weight, variance, angle) - expected_si_snr(
    1.0 + 0 * std, variance, angle
  )
  gain = metrics.si_snr_gain(z, noisy, v, delta, 2)
  assert gain.shape == (1, 2) and by_hand > 0.05
  np.testing.assert_allclose(gain, by_hand, atol=0.1)
  # The true velocity gives the clean latents; one of zero only scales, and gains nothing.
  perfect = metrics.si_snr_gain(z, noisy, diffusion.velocity(z, noise, delta), delta, 1)
  assert float(perfect[0, 0]) > 60
  np.testing.assert_allclose(metrics.si_snr_gain(z, noisy, 0 * v, delta, 1), 0.0, atol=1e-3)
