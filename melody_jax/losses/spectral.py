"""Reconstruction losses of the VAE: log-mel at several resolutions, and waveform error."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from melody_jax.spectral import mel_filters, stft_magnitude


def mel_loss(
  target_BT: jax.Array,
  estimate_BT: jax.Array,
  sample_rate: int,
  resolutions: Sequence[tuple[int, int]],
) -> jax.Array:
  """Mean L1 distance of log-mel spectrograms, averaged over resolutions.

  Args:
    target_BT: Audio [B, T].
    estimate_BT: Its reconstruction [B, T].
    sample_rate: Sample rate in Hz.
    resolutions: (n_fft, n_mels) of each spectrogram; the hop is a quarter of n_fft.

  Returns:
    A scalar, in nepers.
  """
  total = jnp.zeros(())
  both = jnp.concatenate([target_BT, estimate_BT])
  for n_fft, n_mels in resolutions:
    mel = jnp.dot(
      stft_magnitude(both, n_fft, n_fft // 4), jnp.asarray(mel_filters(sample_rate, n_fft, n_mels))
    )
    log_mel = jnp.log(mel + 1e-2)
    target, estimate = jnp.split(log_mel, 2)
    total = total + jnp.mean(jnp.abs(target - estimate))
  return total / len(resolutions)


def waveform_loss(target_BT: jax.Array, estimate_BT: jax.Array, floor: float = 1e-4) -> jax.Array:
  """Mean over the batch of log(error energy / signal energy + 1e-3), in nats.

  A logarithm weighs quiet and loud clips alike; 1 nat is 4.3 dB of signal-to-noise ratio.
  """
  error = jnp.mean(jnp.square(target_BT - estimate_BT), axis=-1)
  energy = jnp.mean(jnp.square(target_BT), axis=-1) + floor
  return jnp.mean(jnp.log(error / energy + 1e-3))
