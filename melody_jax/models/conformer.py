"""Conformer encoder (Gulati et al., 2020) with the conventions of wav2vec 2.0 conformers.

A block has a feed-forward layer at half weight, self-attention, a convolution module, a second
feed-forward layer at half weight, and a layer norm. `nn.scan` stacks the blocks. So compile time
does not grow with depth, and the first k blocks run alone if the stacked parameters are sliced.

Shape letters: B batch, T time, D width, H heads, K head size.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.kernels.attention import attention
from melody_jax.models import layers

POSITIONS = ("rotary", "rotary_input", "relative")
CONV_NORMS = ("layer", "batch")
_MASKED_SCORE = -1e9  # finite, so that a row without valid frames gives no NaN


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
  """Sizes of a conformer encoder.

  Attributes:
    width: Width D.
    n_layers: Number of blocks.
    n_heads: Number of heads H; divides width into an even head size.
    mlp_width: Inner size of each of the two feed-forward layers.
    kernel_size: Taps of the depthwise convolution, odd.
    positions: Form of the positions. "rotary" turns queries and keys (RoFormer); "rotary_input"
      turns the input of the query and key projections instead, as fairseq's and transformers'
      conformers do; "relative" is Transformer-XL's learned relative scores.
    conv_norm: Norm after the depthwise convolution. "layer" is per frame; "batch" is a batch
      norm with frozen statistics, which are parameters (`mean`, `var`) that do not train.
      In neither case does a frame depend on other rows of the batch.
    dropout: Dropout rate after every sub-layer and on attention weights.
    remat: Whether to recompute blocks in the backward pass, to save memory.
    dtype: Dtype of computation.
  """

  width: int
  n_layers: int
  n_heads: int
  mlp_width: int
  kernel_size: int = 31
  positions: str = "rotary"
  conv_norm: str = "layer"
  dropout: float = 0.0
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if self.positions not in POSITIONS:
      raise ValueError(f"positions is {self.positions!r}, it must be one of {POSITIONS}")
    if self.conv_norm not in CONV_NORMS:
      raise ValueError(f"conv_norm is {self.conv_norm!r}, it must be one of {CONV_NORMS}")
    if self.width % (2 * self.n_heads):
      raise ValueError(f"width {self.width} is not {self.n_heads} heads of even size")
    # A kernel without a middle would shift frames against their targets.
    if self.kernel_size % 2 == 0:
      raise ValueError(f"kernel_size {self.kernel_size} must be odd")

  @property
  def head_size(self) -> int:
    return self.width // self.n_heads


class FrozenBatchNorm(nn.Module):
  """Batch norm with fixed statistics: [..., D] -> [..., D], an affine map per channel.

  `mean` and `var` are parameters so that a trained model's running statistics can be
  copied in; the task labels them "frozen".
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
    shape, axes = (x.shape[-1],), ("norm",)
    scale = layers.param_with_axes(self, "scale", ones, shape, axes)
    bias = layers.param_with_axes(self, "bias", zeros, shape, axes)
    mean = layers.param_with_axes(self, "mean", zeros, shape, axes)
    var = layers.param_with_axes(self, "var", ones, shape, axes)
    # One multiplication and one addition a value: the statistics are constants.
    gain = scale * jax.lax.rsqrt(var + self.epsilon)
    offset = bias - mean * gain
    y = x.astype(jnp.float32) * jnp.broadcast_to(gain, x.shape) + jnp.broadcast_to(offset, x.shape)
    return y.astype(x.dtype)


class ConformerFeedForward(nn.Module):
  """W2 GELU(W1 x + b1) + b2: [B, T, D] -> [B, T, D]."""

  config: ConformerConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
    c = self.config
    x = layers.Dense(c.mlp_width, ("embed", "mlp"), dtype=c.dtype, name="up")(x_BxTxD)
    # Exact, as in the public conformers that the parity tests compare with.
    x = nn.gelu(x, approximate=False)
    x = nn.Dropout(c.dropout, deterministic=self.deterministic)(x)
    x = layers.Dense(c.width, ("mlp", "embed"), dtype=c.dtype, name="down")(x)
    return nn.Dropout(c.dropout, deterministic=self.deterministic)(x)


def relative_sinusoids(n_frames: int, width: int) -> jax.Array:
  """Sinusoids of the distances n_frames - 1 .. -(n_frames - 1): [2 n_frames - 1, width].

  Sine and cosine interleave along the width (Transformer-XL, Dai et al., 2019).
  """
  # From the farthest key before a frame to the farthest after it, as `shift_relative` expects.
  distance = jnp.arange(n_frames - 1, -n_frames, -1, dtype=jnp.float32)
  rate = 10_000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
  angles = distance[:, None] * rate[None, :]
  return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(2 * n_frames - 1, width)


def shift_relative(scores_BxHxTxR: jax.Array) -> jax.Array:
  """Scores by distance [B, H, T, 2T - 1] -> scores by key [B, H, T, T].

  Entry (i, j) of the result is entry (i, T - 1 - i + j) of the input: distance i - j.
  Padding and reshaping do it without a gather, which is slow on accelerators.
  """
  b, h, t, r = scores_BxHxTxR.shape
  padded = jnp.pad(scores_BxHxTxR, ((0, 0), (0, 0), (0, 0), (1, 0)))
  return padded.reshape(b, h, r + 1, t)[:, :, 1:].reshape(b, h, t, r)[..., :t]


class ConformerSelfAttention(nn.Module):
  """Bidirectional self-attention with rotary or relative positions: [B, T, D] -> [B, T, D]."""

  config: ConformerConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    c = self.config
    b, t, _ = x_BxTxD.shape
    heads = (b, t, c.n_heads, c.head_size)
    angles_TxC = layers.rotary_angles(jnp.arange(t), c.head_size)

    def project(name: str, x: jax.Array) -> jax.Array:
      return layers.Dense(c.width, ("embed", "heads"), dtype=c.dtype, name=name)(x).reshape(heads)

    # For "rotary_input" positions enter before the projections, which is why checkpoints trained so
    # need their own form: afterwards it is another function.
    turned = x_BxTxD
    if c.positions == "rotary_input":
      turned = layers.apply_rotary(x_BxTxD.reshape(heads), angles_TxC).reshape(x_BxTxD.shape)
    q, k, v = project("query", turned), project("key", turned), project("value", x_BxTxD)
    if c.positions == "rotary":
      q, k = layers.apply_rotary(q, angles_TxC), layers.apply_rotary(k, angles_TxC)

    if c.positions != "relative" and (self.deterministic or not c.dropout):
      mixed = attention(q, k, v, mask_BxS=mask_BxT)
    else:  # the fused kernels cannot add scores by distance or drop weights
      mixed = self._by_scores(q, k, v, mask_BxT)
    y = layers.Dense(c.width, ("heads", "embed"), dtype=c.dtype, name="out")(
      mixed.reshape(x_BxTxD.shape)
    )
    return nn.Dropout(c.dropout, deterministic=self.deterministic)(y)

  def _by_scores(self, q, k, v, mask_BxT) -> jax.Array:
    """Attention [B, T, H, K] whose scores and weights are at hand."""
    c = self.config
    if c.positions == "relative":
      q, by_distance_BxHxTxT = self._relative(q, q.shape[1])
      scores = jnp.einsum("bqhk,bjhk->bhqj", q, k) + by_distance_BxHxTxT
    else:
      scores = jnp.einsum("bqhk,bjhk->bhqj", q, k)
    scores = scores.astype(jnp.float32) * c.head_size**-0.5
    scores = jnp.where(mask_BxT[:, None, None, :], scores, _MASKED_SCORE)
    # In float32 until here: weights of bfloat16 scores would not add up to 1.
    weights = jax.nn.softmax(scores, axis=-1).astype(c.dtype)
    weights = nn.Dropout(c.dropout, deterministic=self.deterministic)(weights)
    return jnp.einsum("bhqj,bjhk->bqhk", weights, v)

  def _relative(self, q_BxTxHxK: jax.Array, n_frames: int) -> tuple[jax.Array, jax.Array]:
    """Computes the content query (with bias u) and the unscaled scores by distance (with bias v).

    These are the two terms of Transformer-XL (Dai et al., 2019).
    """
    c = self.config
    shape, zeros = (c.n_heads, c.head_size), nn.initializers.zeros_init()
    u = layers.param_with_axes(self, "content_bias", zeros, shape, ("heads", "norm"))
    v = layers.param_with_axes(self, "distance_bias", zeros, shape, ("heads", "norm"))
    sinusoids = relative_sinusoids(n_frames, c.width)
    project = layers.Dense(
      c.width, ("embed", "heads"), use_bias=False, dtype=c.dtype, name="distance"
    )
    distance_RxHxK = project(sinusoids).reshape(-1, c.n_heads, c.head_size)
    q_v = q_BxTxHxK + v.astype(c.dtype)[None, None]
    scores = jnp.einsum("bqhk,rhk->bhqr", q_v, distance_RxHxK)
    # Scores for all distances, then moved into place: T x (2 T - 1) products a head, and no gather.
    return q_BxTxHxK + u.astype(c.dtype)[None, None], shift_relative(scores)


class ConvModule(nn.Module):
  """Norm, gated pointwise, depthwise, norm, GELU, pointwise: [B, T, D] -> [B, T, D]."""

  config: ConformerConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    c = self.config
    x = layers.LayerNorm(dtype=c.dtype, name="norm")(x_BxTxD)
    x = layers.Dense(2 * c.width, ("embed", "mlp"), use_bias=False, dtype=c.dtype, name="gate")(x)
    # A gated linear unit: the network may shut a channel before the convolution smears it.
    value, gate = jnp.split(x, 2, axis=-1)
    x = value * nn.sigmoid(gate)
    # Padding must look like the zeros beyond the end of a clip, not like a frame.
    x = jnp.where(mask_BxT[:, :, None], x, jnp.zeros_like(x))
    x = layers.DepthwiseConv1d(c.kernel_size, use_bias=False, dtype=c.dtype, name="depthwise")(x)
    if c.conv_norm == "batch":
      x = FrozenBatchNorm(name="conv_norm")(x)
    else:
      x = layers.LayerNorm(dtype=c.dtype, name="conv_norm")(x)
    x = nn.gelu(x, approximate=False)
    x = layers.Dense(c.width, ("mlp", "embed"), use_bias=False, dtype=c.dtype, name="out")(x)
    return nn.Dropout(c.dropout, deterministic=self.deterministic)(x)


class ConformerBlock(nn.Module):
  """One block, in the form that `nn.scan` wants: (x, mask) -> (x, None)."""

  config: ConformerConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array) -> tuple[jax.Array, None]:
    c, deterministic = self.config, self.deterministic

    def norm(name: str, x: jax.Array) -> jax.Array:
      return layers.LayerNorm(dtype=c.dtype, name=name)(x)

    # Two half steps around attention and convolution did better than one whole (Gulati et al.).
    x = x_BxTxD
    x = x + 0.5 * ConformerFeedForward(c, deterministic, name="ffn1")(norm("ffn1_norm", x))
    x = x + ConformerSelfAttention(c, deterministic, name="attention")(
      norm("attention_norm", x), mask_BxT
    )
    x = x + ConvModule(c, deterministic, name="conv")(x, mask_BxT)
    x = x + 0.5 * ConformerFeedForward(c, deterministic, name="ffn2")(norm("ffn2_norm", x))
    return norm("final_norm", x), None


class Conformer(nn.Module):
  """A stack of blocks: [B, T, D], mask [B, T] -> [B, T, D].

  Padding frames (mask False) never reach the others; what is returned there is arbitrary.
  Parameters of all blocks are stacked along a leading "layers" axis under "blocks".
  """

  config: ConformerConfig
  deterministic: bool = True

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    # Inside a scan XLA cannot undo the recomputation, so it needs no guard against that.
    block = nn.remat(ConformerBlock, prevent_cse=False) if self.config.remat else ConformerBlock
    stack = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=self.config.n_layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    # Padding may hold anything, NaN too, and the convolutions would carry it into valid frames.
    x = jnp.where(mask_BxT[:, :, None], x_BxTxD, jnp.zeros_like(x_BxTxD))
    return stack(self.config, self.deterministic, name="blocks")(x, mask_BxT)[0]
