"""Velocity errors of predictors without a network, to compare a network with.

Let a channel of the clean latents z have the variance s^2, and let eps ~ N(0, 1). The velocity
v = cos(delta) eps - sin(delta) z and the noisy latent z_delta = cos(delta) z + sin(delta) eps
have the variances and the covariance

    var v = cos^2 + sin^2 s^2,   var z_delta = sin^2 + cos^2 s^2,   cov = sin cos (1 - s^2),

and var v * var z_delta - cov^2 = s^2, because (z, eps) -> (z_delta, v) is a rotation. So the errors
below have a closed form. They are exact for latents of these variances; nothing is fitted.

Shape letters: D latent channels.
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
    variance_D: Variance of the clean latents in each channel [D].
    delta: Angles in [0, pi/2], an array of any shape.

  Returns:
    Errors averaged over channels, in the shape of `delta`.
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
  # Both are non-negative on [0, pi/2], so the root is their product.
  return jnp.sqrt(cos2 * sin2) * (1.0 - variance) / jnp.maximum(sin2 + cos2 * variance, 1e-12)


def by_angle(errors: jax.Array, delta: jax.Array, buckets: int) -> jax.Array:
  """Mean error in each of `buckets` equal parts of [0, pi/2], for angles that are drawn uniformly.

  The sum over a part is divided by the number of angles EXPECTED in it. So a part without any angle
  does not give 0/0, and averages over batches are unbiased.

  Args:
    errors: Errors, an array of any shape.
    delta: Their angles, in the same shape.
    buckets: Number of parts.

  Returns:
    Mean errors [buckets].
  """
  index = jnp.clip((delta * (buckets / HALF_PI)).astype(jnp.int32), 0, buckets - 1)
  # A comparison instead of a scatter-add: few buckets, and TPUs scatter slowly.
  inside = index[None] == jnp.arange(buckets).reshape((-1,) + (1,) * delta.ndim)
  # Expected number of angles in a part: all of them over the number of parts.
  return buckets * jnp.mean(
    jnp.where(inside, errors[None], 0.0), axis=tuple(range(1, errors.ndim + 1))
  )
