"""Dual-path diffusion (docs/spec.md, section 6): the velocity network.

Latents are cut into half-overlapping segments (`segments`). A coarse path attends across segments,
on columns merged from neighbouring frames; a fine path runs a recurrence inside segments. N blocks
alternate the two.

Shape letters: B batch, L latent frames, D latent size, T semantic tokens, S segments, K
frames per segment, C merged columns (K_i of the paper), W width, A heads, E head size.
The state is kept as [K, B, S, W]: a step of the recurrence is then contiguous, and merging
columns is a mean over a leading axis.
"""

import dataclasses
import math
from typing import Any

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.diffusion import preconditioning
from melody_jax.kernels.attention import attention
from melody_jax.models.layers import (
  Conv1d,
  Dense,
  Embed,
  Initializer,
  RMSNorm,
  apply_rotary,
  default_kernel_init,
  param_with_axes,
  rotary_angles,
)
from melody_jax.models.segments import (
  column_positions,
  join_segments,
  merge_columns,
  merge_factor,
  repeat_columns,
  segment,
  segment_count,
)
from melody_jax.models.sru_layer import BidirectionalSRU

NORMS = ("sums", "inputs")


@dataclasses.dataclass(frozen=True)
class DPDConfig:
  """Sizes of the network.

  Attributes:
    latent_dim: Latent size D.
    vocab_size: Size of the semantic vocabulary.
    frames_per_token: Latent frames per semantic token; aligns the two in cross-attention.
    chunks: Chunks M of a training window, with angles of their own; music longer than a window
      goes on by one of them.
    segment_size: Frames of a segment K, even.
    n_blocks: Number of blocks N.
    width: Width W.
    n_heads: Number of attention heads; W / n_heads must be even.
    coarse_layers: RoFormer layers per coarse path.
    ffn_width: Inner size of their feed-forward layers.
    sru_layers: Bidirectional SRU layers per fine path.
    sru_width: Hidden size of one direction of an SRU layer.
    film_width: Inner size of FiLM's MLPs.
    angle_width: Size of e_start and e_end.
    latent_std: Spread s of the clean latents that the network is preconditioned for
      (`diffusion.preconditioning`); 1 is the paper's plain form.
    norms: Place of the norms. "sums" puts one on every sum of a block, as the paper does; "inputs"
      leaves the sums alone (a residual stream) and puts norms in front of both paths, which learns
      faster.
    edge_kernel: Taps over time of the first and last layer, odd; the paper's have one.
    filter_taps: Taps of a linear filter over time, a channel and an angle at a time, whose output
      is added to the network's; odd, or 0 for none. It is the linear part of denoising, which
      the network then need not learn.
    remat: Whether to recompute each block in the backward pass.
    dtype: Dtype of computation.
  """

  latent_dim: int
  vocab_size: int
  frames_per_token: float
  chunks: int
  segment_size: int
  n_blocks: int
  width: int
  n_heads: int
  coarse_layers: int
  ffn_width: int
  sru_layers: int
  sru_width: int
  film_width: int
  angle_width: int = 256
  latent_std: float = 1.0
  norms: str = "sums"
  edge_kernel: int = 1
  filter_taps: int = 0
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if self.segment_size % 2:
      raise ValueError(f"segment_size {self.segment_size} is odd; segments overlap by half")
    if self.norms not in NORMS:
      raise ValueError(f"norms is {self.norms!r}: one of {', '.join(NORMS)}")
    # A kernel without a middle would shift the frames against the noise that they carry.
    if not self.edge_kernel % 2 or (self.filter_taps and not self.filter_taps % 2):
      raise ValueError(
        f"edge_kernel {self.edge_kernel} and filter_taps {self.filter_taps} must be odd"
      )
    # Rotary positions turn pairs of features, so a head has an even size.
    if self.width % (2 * self.n_heads):
      raise ValueError(f"width {self.width} must be a multiple of 2 * n_heads = {2 * self.n_heads}")


@flax.struct.dataclass
class Condition:
  """Semantic tokens as the blocks hear them, and the rows that do.

  Attributes:
    tokens_BxTxW: Embedded tokens; None: no row hears any.
    rows_B: Rows that hear them, bool [B]; None: all, or those of `first`.
    first: Number of first rows that hear them, where the others' work is to be spared; None: no
      such cut.
  """

  tokens_BxTxW: jax.Array | None
  rows_B: jax.Array | None = None
  first: int | None = flax.struct.field(default=None, pytree_node=False)


BRANCH_SCALE = 0.2  # size of a branch's sum at birth, against a stream of unit power
ALIGNMENT = 2.5  # length of the bias of a rotary pair, see `_aligned_bias_init`
branch_init = nn.initializers.variance_scaling(BRANCH_SCALE**2, "fan_in", "truncated_normal")


class MLP(nn.Module):
  """MLP(x) = RMSNorm(W2 GELU(W1 x + b1) + b2), over the last axis: [..., in] -> [..., features].

  Attributes:
    inner: Inner size.
    features: Output size.
    dtype: Dtype of computation.
    scale: Scale of the norm at birth.
  """

  inner: int
  features: int
  dtype: str
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = Dense(self.inner, ("embed", "mlp"), dtype=self.dtype, name="inner")(x)
    x = Dense(self.features, ("mlp", "embed"), dtype=self.dtype, name="outer")(nn.gelu(x))
    return RMSNorm(dtype=self.dtype, initial_scale=self.scale, name="norm")(x)


class SegmentAttention(nn.Module):
  """Rotary self-attention along the segments of each column: [B, C, S, W] -> same."""

  config: DPDConfig

  @nn.compact
  def __call__(self, x_BxCxSxW: jax.Array) -> jax.Array:
    c = self.config
    batch, columns, s, _ = x_BxCxSxW.shape
    # Columns join the batch: each is a sequence of its own, of length S.
    heads = (batch * columns, s, c.n_heads, c.width // c.n_heads)
    # One product for all three: they read the same input.
    qkv = Dense(3 * c.width, ("embed", "heads"), False, c.dtype, name="query_key_value")(x_BxCxSxW)
    q, k, v = (part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1))
    angles = rotary_angles(jnp.arange(s), heads[-1])
    y = attention(apply_rotary(q, angles), apply_rotary(k, angles), v)
    return Dense(c.width, ("heads", "embed"), False, c.dtype, branch_init, name="out")(
      y.reshape(x_BxCxSxW.shape)
    )


def _aligned_bias_init(n_heads: int, parts: int = 1):
  """Bias of queries or keys under which attention begins at the token of the same time.

  A constant on the faster half of the rotary pairs of both makes the score a sum of cosines of
  the distance, with one narrow peak at zero. `parts` - 1 further projections get zeros.
  """

  def init(rng: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    del rng
    size = shape[0] // (parts * n_heads)
    # The slower half would hardly turn within a window, and would add nearly the same to the score
    # of every token.
    head = np.where(np.arange(size) % (size // 2) < size // 4, ALIGNMENT / math.sqrt(2.0), 0.0)
    bias = np.concatenate([np.tile(head, n_heads), np.zeros(shape[0] - size * n_heads)])
    return jnp.asarray(bias, dtype)

  return init


class CrossAttention(nn.Module):
  """Rotary attention from every column to the semantic tokens, positions in tokens.

  Queries and keys have biases (choice): born aligned in time, the network learns to use the
  tokens within hundreds of steps instead of first having to find them.

  Rows without condition attend to their own column instead (classifier-free guidance),
  with the same weights.
  """

  config: DPDConfig

  @nn.compact
  def __call__(
    self,
    x_BxCxSxW: jax.Array,
    condition: Condition,
    positions_CxS: np.ndarray,
  ) -> jax.Array:
    c = self.config
    _, columns, s, _ = x_BxCxSxW.shape
    size = c.width // c.n_heads
    axes = ("embed", "heads")
    project = Dense(
      c.width, axes, dtype=c.dtype, bias_init=_aligned_bias_init(c.n_heads), name="query"
    )
    key_value = Dense(
      2 * c.width, axes, dtype=c.dtype, bias_init=_aligned_bias_init(c.n_heads, 2), name="key_value"
    )
    angles = rotary_angles(jnp.asarray(positions_CxS.reshape(-1)), size)
    q = apply_rotary(project(x_BxCxSxW).reshape(-1, columns * s, c.n_heads, size), angles)

    def to_tokens(q, tokens):
      b, t, _ = tokens.shape
      k, v = jnp.split(key_value(tokens), 2, axis=-1)
      k, v = (part.reshape(b, t, c.n_heads, size) for part in (k, v))
      # A token stands for a stretch of time: its place is the middle of it.
      return attention(q, apply_rotary(k, rotary_angles(jnp.arange(t) + 0.5, size)), v)

    def to_itself(q, x):
      k, v = jnp.split(key_value(x), 2, axis=-1)
      k = apply_rotary(k.reshape(q.shape), angles)
      # Each column attends to itself alone, so columns join the batch.
      by_column = (len(q) * columns, s, c.n_heads, size)
      y = attention(q.reshape(by_column), k.reshape(by_column), v.reshape(by_column))
      return y.reshape(q.shape)

    tokens, n = condition.tokens_BxTxW, condition.first
    if tokens is None:
      y = to_itself(q, x_BxCxSxW)
    # Guidance while sampling: which rows hear is known when the program is compiled, so each answer
    # is computed for its own rows only.
    elif n is not None:
      y = jnp.concatenate([to_tokens(q[:n], tokens[:n]), to_itself(q[n:], x_BxCxSxW[n:])])
    elif condition.rows_B is None:
      y = to_tokens(q, tokens)
    else:
      # In training the rows that hear are drawn at random: both answers are computed for all.
      hears = condition.rows_B[:, None, None, None]
      y = jnp.where(hears, to_tokens(q, tokens), to_itself(q, x_BxCxSxW))
    return Dense(c.width, ("heads", "embed"), False, c.dtype, branch_init, name="out")(
      y.reshape(x_BxCxSxW.shape)
    )


class RoFormerLayer(nn.Module):
  """Self-attention, cross-attention, feed-forward; norms before each (choice): [B, C, S, W]."""

  config: DPDConfig

  @nn.compact
  def __call__(
    self, x_BxCxSxW: jax.Array, condition: Condition, positions_CxS: np.ndarray
  ) -> jax.Array:
    c = self.config

    def norm(x, name):
      return RMSNorm(dtype=c.dtype, name=name)(x)

    x = x_BxCxSxW
    x = x + SegmentAttention(c, name="self_attention")(norm(x, "self_norm"))
    x = x + CrossAttention(c, name="cross_attention")(
      norm(x, "cross_norm"), condition, positions_CxS
    )
    y = Dense(c.ffn_width, ("embed", "mlp"), dtype=c.dtype, name="ffn_inner")(norm(x, "ffn_norm"))
    outer = Dense(c.width, ("mlp", "embed"), True, c.dtype, branch_init, name="ffn_outer")
    return x + outer(nn.gelu(y))


class Block(nn.Module):
  """One dual-path block: [K, B, S, W] -> same."""

  config: DPDConfig
  index: int  # i of the paper, from 1

  @nn.compact
  def __call__(
    self, h_KxBxSxW: jax.Array, film_BxSxW: jax.Array, condition: Condition
  ) -> jax.Array:
    c = self.config
    k, _, s, _ = h_KxBxSxW.shape

    # Both forms are one code path: a norm acts where its form has it and is nothing elsewhere.
    def norm(x: jax.Array, name: str, where: str) -> jax.Array:
      return RMSNorm(dtype=c.dtype, name=name)(x) if c.norms == where else x

    factor = merge_factor(self.index, c.n_blocks)
    positions = column_positions(s, k, factor, c.frames_per_token)
    merged = x = merge_columns(norm(h_KxBxSxW, "coarse_norm", "inputs"), factor)
    for i in range(c.coarse_layers):
      x = RoFormerLayer(c, name=f"coarse_{i}")(x, condition, positions)
    # What the path adds, without the merged copy of H that its residuals carry: H + C holds H
    # already, and six sums with its own average would leave nothing but the average.
    x = repeat_columns(x - merged, k, factor)
    f = norm(h_KxBxSxW + x, "coarse_norm", "sums")
    y = norm(f, "fine_norm", "inputs")
    for i in range(c.sru_layers):
      y = BidirectionalSRU(c.sru_width, c.dtype, name=f"sru_{i}")(y)
    gain = MLP(c.film_width, y.shape[-1], c.dtype, name="film_gain")(film_BxSxW)
    offset = MLP(c.film_width, y.shape[-1], c.dtype, name="film_offset")(film_BxSxW)
    # Both paths begin as small corrections, so that the noisy latents reach the output through
    # the 2 N norms in between (each equal share would halve their power).
    y = MLP(c.film_width, c.width, c.dtype, BRANCH_SCALE, name="film_out")(
      y * gain[None] + offset[None]
    )
    return norm(f + y, "fine_norm", "sums")


class DPD(nn.Module):
  """The velocity v_hat(z_delta; semantic tokens, delta): noisy latents [B, L, D] -> [B, L, D]."""

  config: DPDConfig

  def __call__(
    self,
    z_BxLxD: jax.Array,
    delta_BxL: jax.Array,
    semantic_tokens_BxT: jax.Array | None,
    conditional_B: jax.Array | None = None,
  ) -> jax.Array:
    """The predicted velocity.

    Args:
      z_BxLxD: Noisy latents; any L.
      delta_BxL: Noise angle of each frame in radians, 0 clean, pi/2 noise.
      semantic_tokens_BxT: Tokens, int32, T about L / frames_per_token; None: no row has a
        condition.
      conditional_B: Rows that have their condition, bool [B]; None: all of them.

    Returns:
      Velocity, float32 [B, L, D].
    """
    return self._velocity(z_BxLxD, delta_BxL, semantic_tokens_BxT, conditional_B)

  def with_and_without(
    self, z_BxLxD: jax.Array, delta_BxL: jax.Array, semantic_tokens_BxT: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The velocity with the condition and without it, in one pass of 2 B rows.

    It spares the work that the two do not share. Arguments as in `__call__`; both results are
    float32 [B, L, D].
    """
    # One pass of twice the rows reads the weights once.
    twice = (jnp.concatenate([x, x]) for x in (z_BxLxD, delta_BxL, semantic_tokens_BxT))
    both = self._velocity(*twice, None, first=len(z_BxLxD))
    return both[: len(z_BxLxD)], both[len(z_BxLxD) :]

  @nn.compact
  def _velocity(
    self,
    z_BxLxD: jax.Array,
    delta_BxL: jax.Array,
    semantic_tokens_BxT: jax.Array | None,
    conditional_B: jax.Array | None,
    first: int | None = None,
  ) -> jax.Array:
    c = self.config
    length = z_BxLxD.shape[1]
    s = segment_count(length, c.segment_size)
    angle, ends = self._embed_angle(delta_BxL)
    # FiLM takes one angle a segment, that of frame s L / S, even where the segment reaches into
    # another chunk: so does the paper.
    film = angle[:, np.arange(s) * length // s]
    tokens = None
    if semantic_tokens_BxT is not None:
      table = Embed(
        c.vocab_size, c.width, c.dtype, nn.initializers.normal(1.0), name="semantic_embed"
      )
      tokens = MLP(c.width, c.width, c.dtype, name="semantic_mlp")(table(semantic_tokens_BxT))
      # The same mean for all segments: when a token sounds is told by cross-attention alone.
      summary = jnp.mean(tokens, axis=1, keepdims=True)
      rows = conditional_B if first is None else jnp.arange(len(z_BxLxD)) < first
      if rows is not None:
        # A row without condition must not hear its tokens through FiLM either.
        summary = jnp.where(rows[:, None, None], summary, 0.0)
      film = film + summary
    condition = Condition(tokens, conditional_B, first)
    scale_in, skip, scale_out = preconditioning(delta_BxL, c.latent_std)
    # The network gets a rounded copy. The skip at the end takes the latents as they came.
    z = (z_BxLxD * scale_in[..., None]).astype(c.dtype)
    x = self._edge(c.width, "in", ("embed_out", "embed"))(z) + angle
    h = segment(x, c.segment_size)
    # No scan over blocks: each merges another number of columns, so their shapes differ.
    block = nn.remat(Block) if c.remat else Block
    for i in range(1, c.n_blocks + 1):
      h = block(c, i, name=f"block_{i}")(h, film, condition)
    x = RMSNorm(dtype=c.dtype, name="out_norm")(join_segments(h, length))
    # A new network says nearly zero, which preconditioning makes the best linear predictor.
    out_init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
    v = self._edge(c.latent_dim, "out", ("embed", "embed_out"), out_init)(x)
    if c.filter_taps:
      v = v + self._filtered(z, ends)
    return skip[..., None] * z_BxLxD + scale_out[..., None] * v

  def _edge(
    self, features: int, name: str, axes: tuple[str, str], init: Initializer = default_kernel_init
  ) -> nn.Module:
    """The first or last layer: dense, or a convolution over neighbouring frames."""
    c = self.config
    # A velocity in bfloat16 would round a good model's errors away.
    out = jnp.float32 if name == "out" else c.dtype
    if c.edge_kernel == 1:
      return Dense(features, axes, False, c.dtype, init, out_dtype=out, name=name)
    return Conv1d(features, c.edge_kernel, use_bias=False, dtype=out, kernel_init=init, name=name)

  def _filtered(self, z_BxLxD: jax.Array, ends_BxLxE: jax.Array) -> jax.Array:
    """sum over k of taps_k(delta_l) z_{l + k}, each channel by itself: float32 [B, L, D]."""
    c = self.config
    zeros = nn.initializers.zeros_init()
    size = c.filter_taps * c.latent_dim
    # Zero at birth, so that a new filter changes nothing.
    taps = Dense(size, ("embed_out", "norm"), dtype="float32", kernel_init=zeros, name="filter")
    taps_BxLxKxD = taps(ends_BxLxE).reshape(*z_BxLxD.shape[:2], c.filter_taps, c.latent_dim)
    half, length = c.filter_taps // 2, z_BxLxD.shape[1]
    z = jnp.pad(z_BxLxD.astype(jnp.float32), ((0, 0), (half, half), (0, 0)))
    total = jnp.zeros(z_BxLxD.shape, jnp.float32)
    # Shifted products: a convolution cannot have other taps at every frame.
    for k in range(c.filter_taps):
      total = total + taps_BxLxKxD[:, :, k] * z[:, k : k + length]
    return total

  def _embed_angle(self, delta_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """E_delta = MLP(cos(delta) e_start + sin(delta) e_end) [B, L, W], and the MLP's input."""
    c = self.config
    ends = param_with_axes(
      self, "angle_ends", nn.initializers.normal(1.0), (2, c.angle_width), ("position", "norm")
    )
    # Cosine and sine, not two sines as the arXiv text prints: docs/spec.md, section 6.3.
    weights = jnp.stack([jnp.cos(delta_BxL), jnp.sin(delta_BxL)], axis=-1)
    mixed = jnp.dot(weights, ends).astype(c.dtype)
    return MLP(c.width, c.width, c.dtype, name="angle_mlp")(mixed), mixed


def init(config: DPDConfig, rng: jax.Array):
  """Parameters of `DPD(config)`, boxed with their logical axes.

  All blocks have parameters of the same shapes, so they are drawn by one vmap: compiling one
  random draw costs about 0.25 s of CPU time, and N blocks would hold 24 N of them.
  """
  rest_rng, block_rng = jax.random.split(rng)
  k, width = config.segment_size, config.width
  # A network without blocks draws everything else.
  rest = DPD(dataclasses.replace(config, n_blocks=0)).init(
    rest_rng, jnp.zeros((1, k, config.latent_dim)), jnp.zeros((1, k)), jnp.zeros((1, 1), jnp.int32)
  )
  # Parameters depend on no length, so the shortest input will do: it is traced fastest.
  s = segment_count(k, k)
  inputs = (
    jnp.zeros((k, 1, s, width)),
    jnp.zeros((1, s, width)),
    Condition(jnp.zeros((1, 1, width))),
  )
  block = Block(config, 1)
  blocks = jax.vmap(lambda key: block.init(key, *inputs)["params"])(
    jax.random.split(block_rng, config.n_blocks)
  )
  named = {
    f"block_{i + 1}": jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(config.n_blocks)
  }
  return {**rest["params"], **named}
