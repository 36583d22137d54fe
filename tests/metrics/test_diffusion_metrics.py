"""Errors of predictors without a network: closed forms against draws."""

import jax
import jax.numpy as jnp
import numpy as np

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
