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

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.kernels.attention import attention
from melody_jax.models.denoiser import (
  BRANCH_SCALE,
  MLP,
  Condition,
  DenoiserConfig,
  LatentDenoiser,
  aligned_bias_init,
  branch_init,
  out_init,
)
from melody_jax.models.layers import (
  Conv1d,
  Dense,
  Initializer,
  RMSNorm,
  apply_rotary,
  default_kernel_init,
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
from melody_jax.sharding import by_rows

NORMS = ("sums", "inputs")
FINE_PATHS = ("sru", "attention")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPDConfig(DenoiserConfig):
  """Sizes of the network; `DenoiserConfig` has more.

  Attributes:
    segment_size: Frames of a segment K, even.
    n_blocks: Number of blocks N.
    width: Width W.
    n_heads: Number of attention heads; W / n_heads must be even.
    coarse_layers: RoFormer layers per coarse path.
    ffn_width: Inner size of their feed-forward layers.
    sru_layers: Layers per fine path.
    sru_width: Hidden size of one direction of an SRU layer.
    film_width: Inner size of FiLM's MLPs.
    norms: Place of the norms. "sums" puts one on every sum of a block, as the paper does; "inputs"
      leaves the sums alone (a residual stream) and puts norms in front of both paths, which learns
      faster.
    edge_kernel: Taps over time of the first and last layer, odd; the paper's have one.
    fine_path: What its layers are: "sru", bidirectional, as in the paper; or "attention", rotary
      self-attention inside the segments, to compare with: 4 W^2 weights a layer, where an SRU whose
      two directions are together as wide as the network has 3 W^2.
  """

  segment_size: int
  n_blocks: int
  width: int
  n_heads: int
  coarse_layers: int
  ffn_width: int
  sru_layers: int
  sru_width: int
  film_width: int
  norms: str = "sums"
  edge_kernel: int = 1
  fine_path: str = "sru"

  def __post_init__(self):
    super().__post_init__()
    if self.segment_size % 2:
      raise ValueError(f"segment_size {self.segment_size} is odd; segments overlap by half")
    for name, known in (("norms", NORMS), ("fine_path", FINE_PATHS)):
      if getattr(self, name) not in known:
        raise ValueError(f"{name} is {getattr(self, name)!r}: one of {', '.join(known)}")
    # A kernel without a middle would shift the frames against the noise that they carry.
    if not self.edge_kernel % 2:
      raise ValueError(f"edge_kernel {self.edge_kernel} must be odd")
    # Rotary positions turn pairs of features, so a head has an even size.
    if self.width % (2 * self.n_heads):
      raise ValueError(f"width {self.width} must be a multiple of 2 * n_heads = {2 * self.n_heads}")

  @property
  def context_width(self) -> int:
    return self.width


class SegmentAttention(nn.Module):
  """Rotary self-attention along the third axis, within each column: [B, C, S, W] -> same."""

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
      c.width, axes, dtype=c.dtype, bias_init=aligned_bias_init(c.n_heads), name="query"
    )
    key_value = Dense(
      2 * c.width, axes, dtype=c.dtype, bias_init=aligned_bias_init(c.n_heads, 2), name="key_value"
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

    tokens, n = condition.tokens_BxTxE, condition.first
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


class FineAttention(nn.Module):
  """Rotary self-attention inside each segment, added to its input: [K, B, S, W] -> same."""

  config: DPDConfig

  @nn.compact
  def __call__(self, x_KxBxSxW: jax.Array) -> jax.Array:
    # The same layer as across segments, with the two axes exchanged.
    x_BxSxKxW = jnp.transpose(x_KxBxSxW, (1, 2, 0, 3))
    y = SegmentAttention(self.config, name="self_attention")(
      RMSNorm(dtype=self.config.dtype, name="norm")(x_BxSxKxW)
    )
    return x_KxBxSxW + jnp.transpose(y, (2, 0, 1, 3))


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
    x = by_rows(x + SegmentAttention(c, name="self_attention")(norm(x, "self_norm")))
    x = by_rows(
      x + CrossAttention(c, name="cross_attention")(norm(x, "cross_norm"), condition, positions_CxS)
    )
    y = Dense(c.ffn_width, ("embed", "mlp"), dtype=c.dtype, name="ffn_inner")(norm(x, "ffn_norm"))
    outer = Dense(c.width, ("mlp", "embed"), True, c.dtype, branch_init, name="ffn_outer")
    return by_rows(x + outer(nn.gelu(y)))


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
      if c.fine_path == "sru":
        y = by_rows(BidirectionalSRU(c.sru_width, c.dtype, name=f"sru_{i}")(y), axis=1)
      else:
        y = FineAttention(c, name=f"attention_{i}")(y)
    gain = MLP(c.film_width, y.shape[-1], c.dtype, name="film_gain")(film_BxSxW)
    offset = MLP(c.film_width, y.shape[-1], c.dtype, name="film_offset")(film_BxSxW)
    # Both paths begin as small corrections, so that the noisy latents reach the output through
    # the 2 N norms in between (each equal share would halve their power).
    y = MLP(c.film_width, c.width, c.dtype, BRANCH_SCALE, name="film_out")(
      y * gain[None] + offset[None]
    )
    return by_rows(norm(f + y, "fine_norm", "sums"), axis=1)


class DPD(LatentDenoiser):
  """The dual-path network: noisy latents [B, L, D] -> velocity [B, L, D], see `LatentDenoiser`."""

  config: DPDConfig

  def network(self, z_BxLxD: jax.Array, angle_BxLxE: jax.Array, condition: Condition) -> jax.Array:
    c = self.config
    length = z_BxLxD.shape[1]
    s = segment_count(length, c.segment_size)
    # FiLM takes one angle a segment, that of frame s L / S, even where the segment reaches into
    # another chunk: so does the paper.
    film = angle_BxLxE[:, np.arange(s) * length // s]
    if condition.summary_Bx1xE is not None:
      film = film + condition.summary_Bx1xE
    x = self._edge(c.width, "in", ("embed_out", "embed"))(z_BxLxD) + angle_BxLxE
    h = by_rows(segment(x, c.segment_size), axis=1)
    # No scan over blocks: each merges another number of columns, so their shapes differ.
    block = nn.remat(Block) if c.remat else Block
    for i in range(1, c.n_blocks + 1):
      h = block(c, i, name=f"block_{i}")(h, film, condition)
    x = RMSNorm(dtype=c.dtype, name="out_norm")(join_segments(h, length))
    return self._edge(c.latent_dim, "out", ("embed", "embed_out"), out_init)(x)

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
