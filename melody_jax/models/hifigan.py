"""The paper's VAE: residual convolutions on both sides, as in HiFi-GAN (docs/spec.md, section 7.1).

HiFi-GAN: Kong et al. 2020, arXiv 2010.05646. The first and the last layer of either side compute
in float32, everything between in the config's dtype.

Shape letters: B batch, T samples or positions, L latent frames, D latent channels, C channels.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.models.layers import Conv1d, Dense, param_with_axes
from melody_jax.models.vae_config import VAEConfig

# Music at -18 LUFS has a root mean square of about 1/8. Unscaled, the signal would be small beside
# the biases, and quiet passages would get the few values that bfloat16 leaves beside them.
WAVEFORM_GAIN = 8.0
SLOPE = 0.1  # of the leaky rectifiers


def scaled(audio_BT: jax.Array) -> jax.Array:
  """Waveforms [B, T] in [-1, 1] at about unit power, float32: what networks are given."""
  return WAVEFORM_GAIN * audio_BT.astype(jnp.float32)


def transposed_padding(kernel_size: int, rate: int) -> int:
  """Zeros before the first sample of a "SAME" transposed convolution, as `lax.conv_transpose`."""
  return kernel_size - 1 if rate > kernel_size - 1 else -(-(kernel_size + rate - 2) // 2)


class TransposedConv1d(nn.Module):
  """Transposed convolution: [B, L, C] -> [B, L * rate, features]."""

  features: int
  kernel_size: int
  rate: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    shape = (self.kernel_size, x.shape[-1], self.features)
    kernel = param_with_axes(
      self, "kernel", nn.initializers.normal(0.01), shape, ("kernel", "conv_in", "conv_out")
    )
    bias = param_with_axes(self, "bias", nn.initializers.zeros_init(), (self.features,), ("norm",))
    y = jax.lax.conv_transpose(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.rate,),
      "SAME",
      dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return y + bias.astype(self.dtype)[None, None, :]


class ResidualBlock(nn.Module):
  """HiFi-GAN's residual block, dilated and plain convolutions: [B, T, C] -> [B, T, C].

  Attributes:
    depth: Residual sums of the whole stage. Branches are born small enough that together they
      double the power at most.
  """

  kernel_size: int
  dilations: tuple[int, ...]
  depth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    branch = nn.initializers.variance_scaling(1.0 / self.depth, "fan_in", "truncated_normal")
    for i, dilation in enumerate(self.dilations):
      y = Conv1d(width, self.kernel_size, dilation=dilation, dtype=self.dtype, name=f"dilated_{i}")(
        nn.leaky_relu(x, SLOPE)
      )
      plain = Conv1d(
        width, self.kernel_size, dtype=self.dtype, kernel_init=branch, name=f"plain_{i}"
      )
      x = x + plain(nn.leaky_relu(y, SLOPE))
    return x


class Fusion(nn.Module):
  """Mean of residual blocks of several kernels (multi-receptive-field fusion): [B, T, C] -> same.

  Called as the body of a scan over the blocks of a stage: returns (output, None).
  """

  config: VAEConfig
  blocks: int  # of the stage

  @nn.compact
  def __call__(self, x, _=None):
    c = self.config
    depth = self.blocks * len(c.resblock_dilations)
    fused = [
      ResidualBlock(k, c.resblock_dilations, depth, c.dtype, name=f"kernel_{k}")(x)
      for k in c.resblock_kernels
    ]
    return sum(fused) / len(fused), None


class Stage(nn.Module):
  """The residual blocks of one rate: [B, T, C] -> [B, T, C]. One program serves all of them."""

  config: VAEConfig
  blocks: int

  @nn.compact
  def __call__(self, x):
    if not self.blocks:
      return x
    # Recomputed one block at a time: what a stage of 24,000 positions a second keeps is large.
    block = nn.remat(Fusion, prevent_cse=False) if self.config.remat else Fusion
    stack = nn.scan(
      block,
      length=self.blocks,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return stack(self.config, self.blocks, name="blocks")(x, None)[0]


class HifiGanEncoder(nn.Module):
  """Waveform [B, T] -> posterior mean and log-variance, each [B, T / hop, D]."""

  config: VAEConfig

  @nn.compact
  def __call__(self, audio_BT):
    c = self.config
    x = scaled(audio_BT)[:, :, None]
    sizes = zip(c.encoder_strides, c.encoder_widths, c.encoder_kernels, strict=True)
    for i, (stride, width, kernel) in enumerate(sizes):
      # The first in float32: 8 bits of a waveform's mantissa are 48 dB.
      down = Conv1d(width, kernel, stride, dtype=c.dtype if i else jnp.float32, name=f"down_{i}")
      x = down(nn.leaky_relu(x, SLOPE) if i else x).astype(c.dtype)
      x = Stage(c, c.encoder_blocks[i], name=f"stage_{i}")(x)
    x = nn.leaky_relu(x, SLOPE).astype(jnp.float32)
    x = Dense(2 * c.latent_dim, ("embed", "norm"), name="posterior")(x)
    mean, log_variance = jnp.split(x, 2, axis=-1)
    # Limits that training never meets, against an exponential that overflows.
    return mean, jnp.clip(log_variance, -12.0, 4.0)


class HifiGanDecoder(nn.Module):
  """Latents [B, L, D] -> waveform [B, L * hop]."""

  config: VAEConfig

  @nn.compact
  def __call__(self, latents_BLD):
    c = self.config
    stem = Conv1d(c.decoder_width, 7, name="stem")
    x = stem(latents_BLD.astype(jnp.float32)).astype(c.dtype)
    sizes = zip(c.upsample_rates, c.upsample_widths, c.upsample_kernels, strict=True)
    for i, (rate, width, kernel) in enumerate(sizes):
      up = TransposedConv1d(width, kernel, rate, c.dtype, name=f"up_{i}")
      x = up(nn.leaky_relu(x, SLOPE))
      x = Stage(c, 1, name=f"stage_{i}")(x)
    # In float32: bfloat16 would round the waveform to 8 bits.
    x = Conv1d(1, 7, name="head")(nn.leaky_relu(x, SLOPE).astype(jnp.float32))
    return jnp.tanh(x[..., 0])


def samples_of_reach(config: VAEConfig) -> int:
  """Samples on either side of a latent frame's own that the decoder lets depend on it."""
  samples, spacing = 3 * config.hop_length, config.hop_length  # the stem
  for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
    spacing //= rate  # of a level's positions, in samples
    before = transposed_padding(kernel, rate)
    samples += spacing * max(before - (rate - 1), kernel - 1 - before)
    taps = max(config.resblock_kernels) // 2
    samples += spacing * taps * sum(dilation + 1 for dilation in config.resblock_dilations)
  return samples + 3  # the head
