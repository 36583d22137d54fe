"""A sixth model, for a test: the loudness of short frames, guessed from their samples."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.models.layers import Dense


@dataclasses.dataclass(frozen=True)
class LoudnessConfig:
  """Sizes.

  Attributes:
    frame: Samples of a frame.
    width: Size of the hidden layer.
    remat: Whether the backward pass computes the hidden layer again.
  """

  frame: int
  width: int
  remat: bool = False


class Block(nn.Module):
  """Squares of sums: [..., in] to [..., features]."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.square(Dense(self.features, ("embed", "mlp"), name="dense")(x))


class Loudness(nn.Module):
  """Audio [B, T], T a multiple of the frame, to each frame's logarithm of power [B, T / frame]."""

  config: LoudnessConfig

  @nn.compact
  def __call__(self, audio_BT: jax.Array) -> jax.Array:
    c = self.config
    frames_BFS = audio_BT.reshape(audio_BT.shape[0], -1, c.frame)
    block = nn.remat(Block) if c.remat else Block
    hidden = block(c.width, name="hidden")(frames_BFS)
    return Dense(1, ("mlp", "embed"), name="out")(hidden)[..., 0]
