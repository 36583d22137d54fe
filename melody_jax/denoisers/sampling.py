"""Latents of semantic tokens by a denoiser in training: what is listened to at its evaluation.

Requests of users take `generation/`, which cuts long music into windows and knows every setting.
"""

from typing import Any

import jax
import jax.numpy as jnp

from melody_jax import diffusion
from melody_jax.models.denoiser import LatentDenoiser

STEPS = 10  # of second order: a smaller error than that of 20 of the first (docs/sampling.md)
GUIDANCE = 1.5  # that of configs/sample.py, which lies in a room above


def latents_of_tokens(
  model: LatentDenoiser, params: Any, tokens_BxT: jax.Array, rng: jax.Array
) -> jax.Array:
  """Draws latents [B, L, D] of windows, L = T x `frames_per_token`, by guided steps from noise.

  Args:
    model: The network.
    params: Its parameters.
    tokens_BxT: Semantic tokens, int32.
    rng: Random key of the noise.
  """
  c = model.config
  shape = (len(tokens_BxT), round(tokens_BxT.shape[1] * c.frames_per_token), c.latent_dim)

  def velocity(z, delta_BxL, delta):
    del delta
    both = model.apply({"params": params}, z, delta_BxL, tokens_BxT, method="with_and_without")
    return diffusion.guide(*both, GUIDANCE)

  return diffusion.sample(
    velocity,
    jax.random.normal(rng, shape),
    jnp.full((STEPS,), diffusion.HALF_PI / STEPS),
    second_order=1.0,
  )
