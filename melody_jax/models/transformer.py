"""A bidirectional transformer encoder, scanned over its layers.

One block serves both towers of MuLan: post-norm it is BERT's (Devlin et al., 2019), pre-norm
it is ViT's (Dosovitskiy et al., 2021). Shape letters: B batch, T tokens, D width.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.kernels.attention import attention
from melody_jax.models.layers import Dense, LayerNorm


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Sizes of an encoder stack.

  Attributes:
    width: Width D.
    layers: Number of blocks.
    heads: Number of attention heads; divides `width`.
    mlp_size: Inner size of the feed-forward layers.
    pre_norm: Whether norms stand before attention and feed-forward (ViT), not after (BERT).
    epsilon: Epsilon of the layer norms.
    dropout: Dropout rate of what attention and feed-forward add to the residual stream.
    remat: Whether to recompute each block in the backward pass.
    dtype: Dtype of computation.
  """

  width: int
  layers: int
  heads: int
  mlp_size: int
  pre_norm: bool
  epsilon: float = 1e-12
  dropout: float = 0.0
  remat: bool = False
  dtype: str = "float32"


class SelfAttention(nn.Module):
  """Full multi-head self-attention with biases: [B, T, D] -> [B, T, D].

  `mask_BxT` is true on the tokens that may be attended to.
  """

  config: EncoderConfig

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array | None) -> jax.Array:
    c = self.config
    heads = (*x_BxTxD.shape[:2], c.heads, c.width // c.heads)

    def project(name):
      return Dense(c.width, ("embed", "heads"), dtype=c.dtype, name=name)(x_BxTxD).reshape(heads)

    # A mask may come as integers.
    mask = None if mask_BxT is None else mask_BxT.astype(bool)
    y = attention(project("query"), project("key"), project("value"), mask_BxS=mask)
    return Dense(c.width, ("heads", "embed"), dtype=c.dtype, name="out")(y.reshape(x_BxTxD.shape))


class FeedForward(nn.Module):
  """Dense, exact GELU, Dense: [B, T, D] -> [B, T, D]."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
    c = self.config
    y = Dense(c.mlp_size, ("embed", "mlp"), dtype=c.dtype, name="inner")(x_BxTxD)
    # Exact, as both BERT and ViT were trained; the approximation would shift public checkpoints.
    y = nn.gelu(y, approximate=False)
    return Dense(c.width, ("mlp", "embed"), dtype=c.dtype, name="outer")(y)


class EncoderBlock(nn.Module):
  """Attention and feed-forward with residuals: [B, T, D] -> ([B, T, D], None), for `nn.scan`."""

  config: EncoderConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array | None) -> tuple[jax.Array, None]:
    c = self.config
    attention, feed_forward = SelfAttention(c, name="attention"), FeedForward(c, name="mlp")
    attention_norm = LayerNorm(c.epsilon, c.dtype, name="attention_norm")
    mlp_norm = LayerNorm(c.epsilon, c.dtype, name="mlp_norm")
    drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
    x = x_BxTxD
    # ViT's order keeps the sum free of norms and trains from scratch; BERT's is kept for its
    # checkpoints.
    if c.pre_norm:
      x = x + drop(attention(attention_norm(x), mask_BxT))
      x = x + drop(feed_forward(mlp_norm(x)))
    else:
      x = attention_norm(x + drop(attention(x, mask_BxT)))
      x = mlp_norm(x + drop(feed_forward(x)))
    return x, None


class TransformerEncoder(nn.Module):
  """`layers` blocks under one scan: [B, T, D] -> [B, T, D].

  Parameters are stacked along a leading "layers" axis.
  """

  config: EncoderConfig

  @nn.compact
  def __call__(
    self, x_BxTxD: jax.Array, mask_BxT: jax.Array | None, deterministic: bool
  ) -> jax.Array:
    c = self.config
    # Inside a scan XLA cannot undo the recomputation, so it needs no guard against that.
    block = nn.remat(EncoderBlock, prevent_cse=False) if c.remat else EncoderBlock
    # A scan: compiling takes as long as one block, whatever the depth.
    stack = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=c.layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x, _ = stack(c, deterministic, name="layers")(x_BxTxD.astype(jnp.dtype(c.dtype)), mask_BxT)
    return x
