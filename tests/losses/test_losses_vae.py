"""Losses of the VAE-GAN against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.losses import adversarial, spectral


def judgements(value):
  return [
    (jnp.full((2, 3), value), [jnp.full((2, 4), value)]),
    (jnp.full((2, 5), value), [jnp.full((2, 2), value)]),
  ]


def test_least_squares_gan():
  assert float(adversarial.discriminator_loss(judgements(1.0), judgements(0.0))) == 0.0
  assert float(adversarial.discriminator_loss(judgements(0.0), judgements(1.0))) == 2.0
  assert float(adversarial.generator_loss(judgements(0.25))) == pytest.approx(0.75**2)


def test_feature_matching_is_relative_l1():
  assert float(
    adversarial.feature_matching_loss(judgements(2.0), judgements(3.0))
  ) == pytest.approx(0.5, rel=1e-4)


def test_reconstruction_losses_vanish_on_equality_and_grow_with_noise():
  x = 0.2 * jax.random.normal(jax.random.key(0), (2, 4096))
  noise = jax.random.normal(jax.random.key(1), x.shape)
  resolutions = ((512, 40), (256, 20))
  values = [
    float(spectral.mel_loss(x, x + a * noise, 24_000, resolutions)) for a in (0.0, 0.02, 0.2)
  ]
  assert values[0] == 0.0 and values[1] < values[2]
  # Error energy one hundredth of the signal's: 20 dB, or log(0.01) nats.
  error = float(spectral.waveform_loss(x, x + 0.02 * noise))
  assert error == pytest.approx(np.log(0.01), abs=0.15)
