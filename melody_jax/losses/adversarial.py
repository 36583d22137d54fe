"""Least-squares GAN and feature matching over judgements.

A judgement is (logits, feature maps) of one discriminator, as `models/discriminator.py` makes
them. Arrays may have any shape; the losses are means, scalars without a unit.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Judgements = Sequence[tuple[jax.Array, Sequence[jax.Array]]]


def discriminator_loss(real: Judgements, fake: Judgements) -> jax.Array:
  """Mean over judges of (D(real) - 1)^2 + D(fake)^2 (Mao et al., 2017).

  Args:
    real: Judgements of recorded audio; logits of any shape.
    fake: Judgements of decoded audio, of the same shapes.

  Returns:
    A scalar.
  """
  terms = [
    jnp.mean(jnp.square(r - 1.0)) + jnp.mean(jnp.square(f))
    for (r, _), (f, _) in zip(real, fake, strict=True)
  ]
  return jnp.mean(jnp.stack(terms))


def generator_loss(fake: Judgements) -> jax.Array:
  """Scalar mean over judges of (D(fake) - 1)^2, the logits of decoded audio."""
  return jnp.mean(jnp.stack([jnp.mean(jnp.square(f - 1.0)) for f, _ in fake]))


def feature_matching_loss(real: Judgements, fake: Judgements) -> jax.Array:
  """L1 distance of feature maps, each divided by the real map's mean magnitude.

  Args:
    real: Judgements of recorded audio; maps of any shape.
    fake: Judgements of decoded audio, of the same shapes.

  Returns:
    A scalar, the mean over maps.
  """
  terms = [
    jnp.mean(jnp.abs(r - f)) / (jnp.mean(jnp.abs(r)) + 1e-6)
    for (_, real_maps), (_, fake_maps) in zip(real, fake, strict=True)
    for r, f in zip(real_maps, fake_maps, strict=True)
  ]
  return jnp.mean(jnp.stack(terms))
