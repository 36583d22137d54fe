"""Losses of a least-squares GAN, and feature matching.

Each discriminator ("judge") gives (logits, feature maps), float arrays [B, ...] of any further
shape. A judgement list has one such pair for each judge.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Judgements = Sequence[tuple[jax.Array, Sequence[jax.Array]]]


def discriminator_loss(real: Judgements, fake: Judgements) -> jax.Array:
  """Least-squares loss of the discriminators (Mao et al., 2017).

  The mean over judges of (D(real) - 1)^2 + D(fake)^2.

  Args:
    real: Judgements of real sound, (logits [B, ...], feature maps [B, ...]) from each judge.
    fake: Judgements of generated sound, in the same shapes.

  Returns:
    Scalar loss.
  """
  # Mean of means: a judge with more logits counts no more than another.
  terms = [
    jnp.mean(jnp.square(r - 1.0)) + jnp.mean(jnp.square(f))
    for (r, _), (f, _) in zip(real, fake, strict=True)
  ]
  return jnp.mean(jnp.stack(terms))


def generator_loss(fake: Judgements) -> jax.Array:
  """Least-squares loss of the generator: the mean over judges of (D(fake) - 1)^2.

  Args:
    fake: Judgements of generated sound, (logits [B, ...], feature maps [B, ...]) from each judge.

  Returns:
    Scalar loss.
  """
  return jnp.mean(jnp.stack([jnp.mean(jnp.square(f - 1.0)) for f, _ in fake]))


def feature_matching_loss(real: Judgements, fake: Judgements) -> jax.Array:
  """L1 distance of feature maps, each divided by the mean magnitude of the real one.

  Args:
    real: Judgements of real sound, (logits [B, ...], feature maps [B, ...]) from each judge.
    fake: Judgements of generated sound, in the same shapes.

  Returns:
    Scalar loss, a mean over all maps.
  """
  # Without the division the maps with large values would outweigh all others.
  terms = [
    jnp.mean(jnp.abs(r - f)) / (jnp.mean(jnp.abs(r)) + 1e-6)
    for (_, real_maps), (_, fake_maps) in zip(real, fake, strict=True)
    for r, f in zip(real_maps, fake_maps, strict=True)
  ]
  return jnp.mean(jnp.stack(terms))
