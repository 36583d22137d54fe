"""How well a network predicts the velocity, against what needs no network.

With z per channel of variance s^2 and eps ~ N(0, 1), the velocity
v = cos(delta) eps - sin(delta) z and the noisy latent z_delta = cos(delta) z + sin(delta) eps
have the variances and the covariance

    var v = cos^2 + sin^2 s^2,   var z_delta = sin^2 + cos^2 s^2,   cov = sin cos (1 - s^2),

and var v * var z_delta - cov^2 = s^2, since (z, eps) -> (z_delta, v) is a rotation. Hence the
errors below in closed form, exact for the moments of the latents, without fitting anything.
"""

import jax
import jax.numpy as jnp

from melody_jax.diffusion import HALF_PI


def _cos2_sin2(delta: jax.Array) -> tuple[jax.Array, jax.Array]:
  return jnp.square(jnp.cos(delta))[..., None], jnp.square(jnp.sin(delta))[..., None]


def _per_channel(variance_D: jax.Array, delta: jax.Array) -> jax.Array:
  return variance_D.reshape((1,) * delta.ndim + variance_D.shape)


def constant_predictor_error(variance_D: jax.Array, delta: jax.Array) -> jax.Array:
  """Mean squared error of the best constant per angle and channel, E[v | delta].

      error = mean over channels of cos^2 + sin^2 s^2

  Args:
    variance_D: variance of the clean latents, per channel.
    delta: angles of any shape.

  Returns:
    Errors of the shape of `delta`, averaged over channels.
  """
  cos2, sin2 = _cos2_sin2(delta)
  return jnp.mean(cos2 + sin2 * _per_channel(variance_D, delta), axis=-1)


def linear_predictor_gain(variance_D: jax.Array, delta: jax.Array) -> jax.Array:
  """The factor a(delta) of the best v = a z_delta + b: the shape of `delta`, then D.

      a = sin cos (1 - s^2) / (sin^2 + cos^2 s^2)

  It leaves an error of s^2 / (sin^2 + cos^2 s^2). Arguments as in `constant_predictor_error`.
  """
  cos2, sin2 = _cos2_sin2(delta)
  variance = _per_channel(variance_D, delta)
  return jnp.sqrt(cos2 * sin2) * (1.0 - variance) / jnp.maximum(sin2 + cos2 * variance, 1e-12)


def by_angle(errors: jax.Array, delta: jax.Array, buckets: int) -> jax.Array:
  """Mean error in each of `buckets` equal parts of [0, pi/2], for angles drawn uniformly.

  Each part's sum is divided by its EXPECTED count, so that a part that a small batch misses
  does not yield 0/0 and averages over batches are unbiased.
  """
  index = jnp.clip((delta * (buckets / HALF_PI)).astype(jnp.int32), 0, buckets - 1)
  inside = index[None] == jnp.arange(buckets).reshape((-1,) + (1,) * delta.ndim)
  return buckets * jnp.mean(
    jnp.where(inside, errors[None], 0.0), axis=tuple(range(1, errors.ndim + 1))
  )
