"""Reconstruction losses of the VAE-GAN (docs/spec.md, section 7.1).

Shape letters: B batch, T samples, L latent frames, D latent channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from melody_jax.spectral import stft_magnitude


def stft_loss(
  target_BT: jax.Array, estimate_BT: jax.Array, resolutions: Sequence[tuple[int, int, int]]
) -> jax.Array:
  """Sum over several STFTs of the mean absolute difference of their magnitudes.

  Args:
    target_BT: Waveforms to match, float [B, T].
    estimate_BT: Decoded waveforms, float [B, T].
    resolutions: (n_fft, window, hop) of each STFT, in samples. Hann windows.

  Returns:
    Scalar, float32.
  """
  total = jnp.zeros(())
  for n_fft, window, hop in resolutions:
    # Each by itself: joined along rows that lie on many devices they would travel between them.
    target, estimate = (stft_magnitude(x, n_fft, hop, window) for x in (target_BT, estimate_BT))
    total = total + jnp.mean(jnp.abs(target - estimate))
  return total


def spectrum_loss(
  target_BxFxN: jax.Array, estimate_BxFxN: jax.Array, weights_N: jax.Array
) -> jax.Array:
  """Mean squared error of weighted log magnitudes, for the codec without phase.

  The mean of a bin's logarithm is what squares aim at; absolute errors aim at its median and let
  go of faint lines that are there less than half of the time.

  Args:
    target_BxFxN: Log magnitudes to match, float [B, F, N].
    estimate_BxFxN: Decoded log magnitudes, float [B, F, N].
    weights_N: Weight of each bin, float [N].

  Returns:
    Scalar, float32.
  """
  error = estimate_BxFxN.astype(jnp.float32) - target_BxFxN.astype(jnp.float32)
  return jnp.mean(jnp.square(error * weights_N[None, None, :]))


def kl_loss(mean_BLD: jax.Array, log_variance_BLD: jax.Array) -> jax.Array:
  """Divergence of the posterior from N(0, I), 1/2 mean(mean^2 + variance - 1 - log variance).

  Args:
    mean_BLD: Posterior means, float [B, L, D].
    log_variance_BLD: Logarithms of the posterior variances, float [B, L, D].

  Returns:
    Scalar, float32, in nats for each value of the latents.
  """
  mean = mean_BLD.astype(jnp.float32)
  log_variance = log_variance_BLD.astype(jnp.float32)
  return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
