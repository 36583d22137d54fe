"""UNet denoisers to compare the dual-path network with (the paper's appendix E).

The appendix names two: a UNet-1D, of archinetai/a-unet, whose axis is time; and a UNet-2D, of
riffusion-model-v1, which takes the latents for a picture. Both are this one network over a picture
of time x bands (choice):

| | bands F | a place of the picture has | kernels |
| --- | --- | --- | --- |
| UNet-1D | 1 | all D latent channels of a frame | 3 x 1 |
| UNet-2D | more than one | D / F neighbouring channels | 3 x 3 |

Levels of half the size each; at a level residual blocks of two convolutions, at the deeper ones
also attention among all places and cross-attention to the semantic tokens (Moûsai, Schneider et al.
2023; Rombach et al. 2022); every block of the way down is handed to its mirror image on the way up.
Where it differs from both names, for the sake of the comparison (choice):

* Angles are those of frames, not one number an item. A block is scaled and shifted at each place by
  the embedded angle there, averaged over the frames that were merged into it.
* Norms are over the channels of one place. A group norm's moments would run over time and mix
  chunks of unequal noise.
* A row that does not hear its tokens hears one learned vector instead of each.
* Tokens, angles, preconditioning and linear filter are those of `models.denoiser`, and
  cross-attention begins at the token of the same time, as in the dual-path network.

Shape letters: B batch, T time at a level, F bands at a level, W width of a level, N = T F places, E
size of embedded conditions, S semantic tokens, L latent frames, D latent size.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.kernels.attention import attention
from melody_jax.models.denoiser import (
  Condition,
  DenoiserConfig,
  LatentDenoiser,
  aligned_bias_init,
  branch_init,
  out_init,
)
from melody_jax.models.layers import (
  Conv2d,
  Dense,
  RMSNorm,
  apply_rotary,
  param_with_axes,
  rotary_angles,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(DenoiserConfig):
  """Sizes of the network; `DenoiserConfig` has more.

  Attributes:
    bands: Bands F of the picture, a divisor of latent_dim; 1: UNet-1D. Every level below the first
      has half as many, so several are a multiple of 2^(levels - 1).
    width: Channels of the first level.
    multipliers: Channels of each level in units of `width`; as many as there are levels.
    attention: Whether a level attends, 0 or 1 each.
    blocks: Residual blocks of a level on the way down, and as many on the way up.
    n_heads: Attention heads; the width of a level that attends is a multiple of 2 n_heads.
    ffn_factor: Inner size of feed-forward layers, in units of the level's width.
    embed_width: Size E of the embedded angles and tokens.
  """

  bands: int
  width: int
  multipliers: tuple[int, ...]
  attention: tuple[int, ...]
  blocks: int
  n_heads: int
  ffn_factor: int
  embed_width: int

  def __post_init__(self):
    super().__post_init__()
    levels = len(self.multipliers)
    if not levels or levels != len(self.attention):
      raise ValueError(
        f"multipliers {self.multipliers} and attention {self.attention} have one number a level"
      )
    if min(self.multipliers) < 1 or self.blocks < 1 or self.ffn_factor < 1:
      raise ValueError("multipliers, blocks and ffn_factor are at least 1")
    if self.latent_dim % self.bands:
      raise ValueError(f"bands {self.bands} must divide latent_dim {self.latent_dim}")
    if self.bands > 1 and self.bands % 2 ** (levels - 1):
      raise ValueError(f"bands {self.bands} cannot be halved {levels - 1} times")
    for multiplier, attends in zip(self.multipliers, self.attention):
      # Rotary positions turn pairs of features, so a head has an even size.
      if attends and multiplier * self.width % (2 * self.n_heads):
        raise ValueError(
          f"a level's width {multiplier * self.width} must be a multiple of 2 * n_heads ="
          f" {2 * self.n_heads}"
        )

  @property
  def context_width(self) -> int:
    return self.embed_width

  @property
  def factor(self) -> int:
    """Frames that become one at the deepest level."""
    return 2 ** (len(self.multipliers) - 1)

  @property
  def steps(self) -> tuple[int, int]:
    """How many (frames, bands) a level merges into one."""
    return (2, 2 if self.bands > 1 else 1)


class ResidualBlock(nn.Module):
  """x + conv(modulated conv(x)): [B, T, F, in] and modulation [B, T, E] -> [B, T, F, width]."""

  config: UNetConfig
  width: int

  @nn.compact
  def __call__(self, x_BxTxFxW: jax.Array, modulation_BxTxE: jax.Array) -> jax.Array:
    c, x = self.config, x_BxTxFxW
    kernel = _kernel(c)
    y = nn.silu(RMSNorm(dtype=c.dtype, name="in_norm")(x))
    y = Conv2d(self.width, kernel, dtype=c.dtype, name="in")(y)
    scale_shift = Dense(2 * self.width, ("embed", "mlp"), dtype=c.dtype, name="modulation")
    scale, shift = jnp.split(scale_shift(modulation_BxTxE)[:, :, None], 2, axis=-1)
    y = RMSNorm(dtype=c.dtype, name="out_norm")(y) * (1.0 + scale) + shift
    y = Conv2d(self.width, kernel, dtype=c.dtype, kernel_init=branch_init, name="out")(nn.silu(y))
    if x.shape[-1] != self.width:
      x = Dense(self.width, ("embed_out", "embed"), False, c.dtype, name="skip")(x)
    return x + y


class AttentionBlock(nn.Module):
  """Attention among places, to the tokens, and a feed-forward layer: [B, T, F, W] -> same."""

  config: UNetConfig

  @nn.compact
  def __call__(
    self, x_BxTxFxW: jax.Array, tokens_BxSxE: jax.Array, positions_T: np.ndarray
  ) -> jax.Array:
    """Adds the three in turn.

    Args:
      x_BxTxFxW: Picture.
      tokens_BxSxE: Embedded semantic tokens, or what stands in for them.
      positions_T: Places in time, in tokens.
    """
    c = self.config
    batch, _, bands, width = x_BxTxFxW.shape
    size = width // c.n_heads  # of a head
    x = x_BxTxFxW.reshape(batch, -1, width)
    # The bands of a frame sound at the same time; which is which the convolutions tell.
    angles = rotary_angles(jnp.asarray(np.repeat(positions_T, bands)), size)

    def project(parts, name, y, aligned):
      bias_init = aligned_bias_init(c.n_heads, parts)
      layer = Dense(
        parts * width, ("embed", "heads"), aligned, c.dtype, bias_init=bias_init, name=name
      )
      return (x.reshape(batch, -1, c.n_heads, size) for x in jnp.split(layer(y), parts, axis=-1))

    def add(x, y, name, axes=("heads", "embed")):
      return x + Dense(width, axes, False, c.dtype, branch_init, name=name)(y)

    y = RMSNorm(dtype=c.dtype, name="self_norm")(x)
    q, k, v = project(3, "query_key_value", y, aligned=False)
    y = attention(apply_rotary(q, angles), apply_rotary(k, angles), v)
    x = add(x, y.reshape(x.shape), "self_out")
    (q,) = project(1, "query", RMSNorm(dtype=c.dtype, name="cross_norm")(x), aligned=True)
    k, v = project(2, "key_value", tokens_BxSxE, aligned=True)
    # A token stands for a stretch of time: its place is the middle of it.
    middles = rotary_angles(jnp.arange(tokens_BxSxE.shape[1]) + 0.5, size)
    y = attention(apply_rotary(q, angles), apply_rotary(k, middles), v)
    x = add(x, y.reshape(x.shape), "cross_out")
    y = RMSNorm(dtype=c.dtype, name="ffn_norm")(x)
    y = nn.gelu(Dense(c.ffn_factor * width, dtype=c.dtype, name="ffn_inner")(y))
    return add(x, y, "ffn_outer", ("mlp", "embed")).reshape(x_BxTxFxW.shape)


class UNet(LatentDenoiser):
  """The network: noisy latents [B, L, D] -> velocity [B, L, D], see `LatentDenoiser`."""

  config: UNetConfig

  def network(self, z_BxLxD: jax.Array, angle_BxLxE: jax.Array, condition: Condition) -> jax.Array:
    c = self.config
    batch, length, _ = z_BxLxD.shape
    tail = -length % c.factor
    # Frames beyond the end are zeros at the angle of the last, so that no level is left with half.
    x = jnp.pad(z_BxLxD, ((0, 0), (0, tail), (0, 0))).reshape(batch, length + tail, c.bands, -1)
    angle = jnp.pad(angle_BxLxE, ((0, 0), (0, tail), (0, 0)), mode="edge")
    tokens = self._heard(batch, condition)
    if condition.summary_Bx1xE is not None:
      angle = angle + condition.summary_Bx1xE
    wraps = nn.remat if c.remat else lambda block: block
    residual, attend = wraps(ResidualBlock), wraps(AttentionBlock)

    def block(x, level, name):
      """One residual block of a level, and attention where it has some."""
      merged = 2**level
      of_level = jnp.mean(angle.reshape(batch, -1, merged, c.embed_width), axis=2)
      x = residual(c, c.width * c.multipliers[level], name=name)(x, of_level)
      if not c.attention[level]:
        return x
      # The middle of the frames that a place stands for.
      positions = (np.arange(x.shape[1]) + 0.5) * merged / c.frames_per_token
      return attend(c, name=f"{name}_attention")(x, tokens, positions.astype(np.float32))

    x = Conv2d(c.width, _kernel(c), dtype=c.dtype, name="in")(x)
    last, skips = len(c.multipliers) - 1, []
    for level in range(last + 1):
      if level:
        x = Conv2d(x.shape[-1], _kernel(c), c.steps, c.dtype, name=f"down_{level}")(x)
      for i in range(c.blocks):
        x = block(x, level, f"down_{level}_{i}")
        skips.append(x)
    for level in range(last, -1, -1):
      if level < last:
        x = jnp.repeat(jnp.repeat(x, c.steps[0], axis=1), c.steps[1], axis=2)
        x = Conv2d(x.shape[-1], _kernel(c), dtype=c.dtype, name=f"up_{level}")(x)
      for i in range(c.blocks):
        x = block(jnp.concatenate([x, skips.pop()], axis=-1), level, f"up_{level}_{i}")
    x = nn.silu(RMSNorm(dtype=c.dtype, name="out_norm")(x))
    # A velocity in bfloat16 would round a good model's errors away.
    x = Conv2d(c.latent_dim // c.bands, _kernel(c), kernel_init=out_init, name="out")(x)
    return x.reshape(batch, length + tail, c.latent_dim)[:, :length]

  def _heard(self, batch: int, condition: Condition) -> jax.Array:
    """What each row hears, [B, S, E]: its tokens, or the learned vector that stands for none."""
    c = self.config
    axes = ("position", "embed")
    nothing = param_with_axes(
      self, "no_token", nn.initializers.normal(1.0), (1, c.embed_width), axes
    )
    nothing_1x1xE = nothing.astype(c.dtype)[None]
    tokens = condition.tokens_BxTxE
    if tokens is None:
      return jnp.broadcast_to(nothing_1x1xE, (batch, 1, c.embed_width))
    rows = condition.rows_B if condition.first is None else jnp.arange(batch) < condition.first
    return tokens if rows is None else jnp.where(rows[:, None, None], tokens, nothing_1x1xE)


def _kernel(config: UNetConfig) -> tuple[int, int]:
  return (3, 3 if config.bands > 1 else 1)


def init(config: UNetConfig, rng: jax.Array):
  """Parameters of `UNet(config)`, boxed with their logical axes."""
  length = config.factor  # parameters depend on no length; the shortest is traced fastest
  inputs = (
    jnp.zeros((1, length, config.latent_dim)),
    jnp.zeros((1, length)),
    jnp.zeros((1, 1), jnp.int32),
  )
  return UNet(config).init(rng, *inputs)["params"]
