"""Losses of a least-squares GAN, and feature matching (docs/spec.md, section 7.1).

Each discriminator ("judge") gives (logits, feature maps), float arrays [B, ...] of any further
shape. A judgement list has one such pair for each judge. All losses are sums over judges, as in
HiFi-GAN (Kong et al. 2020, arXiv 2010.05646), and sum in float32 whatever dtype the maps have.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Judgements = Sequence[tuple[jax.Array, Sequence[jax.Array]]]


def _mean_square(x: jax.Array, target: float) -> jax.Array:
  return jnp.mean(jnp.square(x.astype(jnp.float32) - target))


def discriminator_loss(real: Judgements, fake: Judgements) -> jax.Array:
  """Least-squares loss of the discriminators (Mao et al., 2017).

      sum over judges of mean (D(real) - 1)^2 + mean D(fake)^2

  Args:
    real: Judgements of real sound, (logits [B, ...], feature maps [B, ...]) from each judge.
    fake: Judgements of generated sound, in the same shapes.

  Returns:
    Scalar loss.
  """
  terms = [
    _mean_square(r, 1.0) + _mean_square(f, 0.0) for (r, _), (f, _) in zip(real, fake, strict=True)
  ]
  return jnp.sum(jnp.stack(terms))


def generator_loss(fake: Judgements) -> jax.Array:
  """Least-squares loss of the generator: the sum over judges of mean (D(fake) - 1)^2.

  Args:
    fake: Judgements of generated sound, (logits [B, ...], feature maps [B, ...]) from each judge.

  Returns:
    Scalar loss.
  """
  return jnp.sum(jnp.stack([_mean_square(f, 1.0) for f, _ in fake]))


def feature_matching_loss(real: Judgements, fake: Judgements, relative: bool = False) -> jax.Array:
  """L1 distance of feature maps: a sum over judges, of each the mean over its layers.

  The logits are a judge's last layer, as in HiFi-GAN.

  Args:
    real: Judgements of real sound, (logits [B, ...], feature maps [B, ...]) from each judge.
    fake: Judgements of generated sound, in the same shapes.
    relative: Whether each distance is divided by the mean magnitude of the real map, so that maps
      with large values do not outweigh the others (choice; not the paper's).

  Returns:
    Scalar loss.
  """

  def distance(r: jax.Array, f: jax.Array) -> jax.Array:
    # Float32 before the difference: bfloat16 leaves two or three digits of it.
    r, f = r.astype(jnp.float32), f.astype(jnp.float32)
    error = jnp.mean(jnp.abs(r - f))
    return error / (jnp.mean(jnp.abs(r)) + 1e-6) if relative else error

  terms = [
    jnp.mean(jnp.stack([distance(*pair) for pair in zip([*rs, r], [*fs, f], strict=True)]))
    for (r, rs), (f, fs) in zip(real, fake, strict=True)
  ]
  return jnp.sum(jnp.stack(terms))
