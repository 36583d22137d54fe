"""Reconstruction losses of the VAE: log-mel at several resolutions, and the waveform's error.

Shape letters: B batch, T samples.
"""

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
  """Mean L1 distance of log-mel spectrograms, averaged over several resolutions.

  Args:
    target_BT: Waveforms to match, float [B, T].
    estimate_BT: Decoded waveforms, float [B, T].
    sample_rate: Sample rate in Hz.
    resolutions: Pairs (n_fft in samples, number of mel bands). The hop is a quarter of n_fft.

  Returns:
    Scalar, in nats.
  """
  total = jnp.zeros(())
  both = jnp.concatenate([target_BT, estimate_BT])
  for n_fft, n_mels in resolutions:
    mel = jnp.dot(
      stft_magnitude(both, n_fft, n_fft // 4), jnp.asarray(mel_filters(sample_rate, n_fft, n_mels))
    )
    # The floor keeps near-silence, where the logarithm is steep, from ruling the loss.
    log_mel = jnp.log(mel + 1e-2)
    target, estimate = jnp.split(log_mel, 2)
    total = total + jnp.mean(jnp.abs(target - estimate))
  return total / len(resolutions)


def waveform_loss(target_BT: jax.Array, estimate_BT: jax.Array, floor: float = 1e-4) -> jax.Array:
  """Mean over the batch of log(error energy / signal energy + 1e-3).

  The logarithm gives quiet and loud clips the same weight.

  Args:
    target_BT: Waveforms to match, float [B, T].
    estimate_BT: Decoded waveforms, float [B, T].
    floor: Added to the signal's energy, so that silence does not divide by zero.

  Returns:
    Scalar in nats. One nat is 4.3 dB of signal-to-noise ratio.
  """
  error = jnp.mean(jnp.square(target_BT - estimate_BT), axis=-1)
  energy = jnp.mean(jnp.square(target_BT), axis=-1) + floor
  # 1e-3: beyond 30 dB of signal-to-noise ratio there is nothing left to gain.
  return jnp.mean(jnp.log(error / energy + 1e-3))
