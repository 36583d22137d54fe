"""What every velocity network of latents shares: its conditions and edges (docs/spec.md, 6).

A network says how noisy latents, with the angle of every frame and the semantic tokens, become a
velocity. Around it stand the same embeddings, preconditioning and filter, whatever it is: the
dual-path network (`models.dpd`) and those that it is compared with (`denoisers`) then differ in
nothing else.

Shape letters: B batch, L latent frames, D latent size, T semantic tokens, E size of the embedded
conditions.
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
from melody_jax.models.layers import Dense, Embed, RMSNorm, param_with_axes


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
  """Sizes that every velocity network has.

  Attributes:
    latent_dim: Latent size D.
    vocab_size: Size of the semantic vocabulary.
    frames_per_token: Latent frames per semantic token; aligns the two in cross-attention.
    chunks: Chunks M of a training window, with angles of their own; music longer than a window
      goes on by one of them.
    angle_width: Size of e_start and e_end.
    latent_std: Spread s of the clean latents that the network is preconditioned for
      (`diffusion.preconditioning`); 1 is the paper's plain form.
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
  angle_width: int = 256
  latent_std: float = 1.0
  filter_taps: int = 0
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    # A filter without a middle would shift the frames against the noise that they carry.
    if self.filter_taps and not self.filter_taps % 2:
      raise ValueError(f"filter_taps {self.filter_taps} must be odd, or 0")

  @property
  def context_width(self) -> int:
    """Size E of the embedded angles and tokens."""
    raise NotImplementedError


@flax.struct.dataclass
class Condition:
  """Semantic tokens as the blocks hear them, and the rows that do.

  Attributes:
    tokens_BxTxE: Embedded tokens; None: no row hears any.
    rows_B: Rows that hear them, bool [B]; None: all, or those of `first`.
    summary_Bx1xE: Mean of the tokens of a row, 0 in rows that do not hear them; None: no row does.
    first: Number of first rows that hear them, where the others' work is to be spared; None: no
      such cut.
  """

  tokens_BxTxE: jax.Array | None
  rows_B: jax.Array | None = None
  summary_Bx1xE: jax.Array | None = None
  first: int | None = flax.struct.field(default=None, pytree_node=False)


BRANCH_SCALE = 0.2  # size of a branch's sum at birth, against a stream of unit power
ALIGNMENT = 2.5  # length of the bias of a rotary pair, see `aligned_bias_init`
branch_init = nn.initializers.variance_scaling(BRANCH_SCALE**2, "fan_in", "truncated_normal")
# A new network says nearly zero, which preconditioning makes the best linear predictor.
out_init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


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


def aligned_bias_init(n_heads: int, parts: int = 1):
  """Bias of queries or keys under which attention begins at the token of the same time.

  A constant on the faster half of the rotary pairs of both makes the score a sum of cosines of
  the distance, with one narrow peak at zero.

  Args:
    n_heads: Number of heads.
    parts: Number of projections side by side; those after the first get zeros.

  Returns:
    Function of (key, shape [parts x heads x head size], dtype).
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


class LatentDenoiser(nn.Module):
  """The velocity v_hat(z_delta; semantic tokens, delta): noisy latents [B, L, D] -> [B, L, D].

  A subclass is one architecture; it has `network`.
  """

  config: Any

  def network(self, z_BxLxD: jax.Array, angle_BxLxE: jax.Array, condition: Condition) -> jax.Array:
    """What the subclass adds: the velocity before its scale, float32 [B, L, D].

    Args:
      z_BxLxD: Noisy latents of about unit variance, in the dtype of computation; any L.
      angle_BxLxE: Embedded angle of every frame.
      condition: Semantic tokens.
    """
    raise NotImplementedError

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
    angle, ends = self._embed_angle(delta_BxL)
    condition = self._embed_tokens(semantic_tokens_BxT, conditional_B, first)
    scale_in, skip, scale_out = preconditioning(delta_BxL, c.latent_std)
    # The network gets a rounded copy. The skip at the end takes the latents as they came.
    z = (z_BxLxD * scale_in[..., None]).astype(c.dtype)
    v = self.network(z, angle, condition)
    if c.filter_taps:
      v = v + self._filtered(z, ends)
    return skip[..., None] * z_BxLxD + scale_out[..., None] * v

  def _embed_tokens(
    self, semantic_tokens_BxT: jax.Array | None, rows_B: jax.Array | None, first: int | None
  ) -> Condition:
    """E_ST = MLP(embedding(semantic tokens)) [B, T, E], and its mean over T."""
    c = self.config
    if semantic_tokens_BxT is None:
      return Condition(None, rows_B, None, first)
    width = c.context_width
    table = Embed(c.vocab_size, width, c.dtype, nn.initializers.normal(1.0), name="semantic_embed")
    tokens = MLP(width, width, c.dtype, name="semantic_mlp")(table(semantic_tokens_BxT))
    # The same mean for all frames: when a token sounds is told by cross-attention alone.
    summary = jnp.mean(tokens, axis=1, keepdims=True)
    hears = rows_B if first is None else jnp.arange(len(tokens)) < first
    if hears is not None:
      # A row without condition must not hear its tokens through their mean either.
      summary = jnp.where(hears[:, None, None], summary, 0.0)
    return Condition(tokens, rows_B, summary, first)

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
    """E_delta = MLP(cos(delta) e_start + sin(delta) e_end) [B, L, E], and the MLP's input."""
    c = self.config
    ends = param_with_axes(
      self, "angle_ends", nn.initializers.normal(1.0), (2, c.angle_width), ("position", "norm")
    )
    # Cosine and sine, not two sines as the arXiv text prints: docs/spec.md, section 6.3.
    weights = jnp.stack([jnp.cos(delta_BxL), jnp.sin(delta_BxL)], axis=-1)
    mixed = jnp.dot(weights, ends).astype(c.dtype)
    width = c.context_width
    return MLP(width, width, c.dtype, name="angle_mlp")(mixed), mixed
