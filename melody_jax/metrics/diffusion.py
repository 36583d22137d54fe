"""Measures of a denoiser: SI-SNR gain, and velocity errors of predictors without a network.

Let a channel of the clean latents z have the variance s^2, and let eps ~ N(0, 1). The velocity
v = cos(delta) eps - sin(delta) z and the noisy latent z_delta = cos(delta) z + sin(delta) eps
have the variances and the covariance

    var v = cos^2 + sin^2 s^2,   var z_delta = sin^2 + cos^2 s^2,   cov = sin cos (1 - s^2),

and var v * var z_delta - cov^2 = s^2, because (z, eps) -> (z_delta, v) is a rotation. So the errors
below have a closed form. They are exact for latents of these variances; nothing is fitted.

Shape letters: B batch, L latent frames, D latent channels, M chunks.
"""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.diffusion import HALF_PI, angle_step, chunk_of_frames

SI_SNR_LIMIT = 100.0  # dB; float32 has no more digits than that


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


def si_snr(estimate_BxLxD: jax.Array, target_BxLxD: jax.Array, chunks: int) -> jax.Array:
  """Scale-invariant signal-to-noise ratio of each chunk, all its frames and channels one vector.

      SI-SNR = 10 log10(|a z|^2 / |z_hat - a z|^2),   a = <z_hat, z> / |z|^2

  (Le Roux et al. 2019, arXiv 1811.02508). No mean is taken off (choice): that of a latent channel
  sounds, where that of a waveform does not.

  Args:
    estimate_BxLxD: Estimated latents z_hat.
    target_BxLxD: True latents z.
    chunks: Number M of chunks that the L frames are cut into, as `diffusion.chunk_of_frames` does.

  Returns:
    Decibels within +- SI_SNR_LIMIT, [B, M]; 0 where both are silent.
  """
  chunk_L = chunk_of_frames(target_BxLxD.shape[1], chunks)
  member_LxM = jnp.asarray(chunk_L[:, None] == np.arange(chunks), jnp.float32)

  def inner(x, y):  # one product a chunk, [B, M]
    return jnp.sum(x * y, axis=-1) @ member_LxM

  tiny = 1e-30  # of silence; far below the square of any float32 latent
  scale_BxM = inner(estimate_BxLxD, target_BxLxD) / (inner(target_BxLxD, target_BxLxD) + tiny)
  signal = scale_BxM[:, chunk_L, None] * target_BxLxD
  # The difference itself, not one of powers: near delta = 0 those would cancel.
  noise = estimate_BxLxD - signal
  ratio = (inner(signal, signal) + tiny) / (inner(noise, noise) + tiny)
  return jnp.clip(10.0 * jnp.log10(ratio), -SI_SNR_LIMIT, SI_SNR_LIMIT)


def si_snr_gain(
  z_BxLxD: jax.Array, noisy_BxLxD: jax.Array, v_BxLxD: jax.Array, delta_BxL: jax.Array, chunks: int
) -> jax.Array:
  """How far a predicted velocity lifts the SI-SNR of noisy latents (the paper's appendix E).

      gain = SI-SNR(cos(delta) z_delta - sin(delta) v_hat, z) - SI-SNR(z_delta, z)

  A chunk has one angle, so the two are compared chunk by chunk (choice): in a vector of several the
  noisiest would drown the others.

  Args:
    z_BxLxD: Clean latents z.
    noisy_BxLxD: Noisy latents z_delta.
    v_BxLxD: Predicted velocity v_hat.
    delta_BxL: Angle of every frame, one a chunk.
    chunks: Number M of chunks.

  Returns:
    Decibels [B, M].
  """
  denoised = angle_step(noisy_BxLxD, v_BxLxD, delta_BxL)
  return si_snr(denoised, z_BxLxD, chunks) - si_snr(noisy_BxLxD, z_BxLxD, chunks)
