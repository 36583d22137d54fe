"""The VAE of the VAE-GAN: waveform to latents and back (docs/spec.md, section 7).

Encoder: strided convolutions with ConvNeXt-like blocks between. Decoders: HiFi-GAN
(Kong et al., 2020), and one at frame rate whose head is a learned lapped transform, so
that nearly all of its work is matmul. Where the whole stride is one lapped transform
(`gain_edges`) stem and head begin as an MDCT and its inverse; gains of all bands and shapes of
the lowest bins pass around the networks (`lapped`): training starts from a low-passed copy.
The form "spectral" (`spectral_codec`) keeps magnitudes alone and finds the phase after decoding.

Shape letters: B batch, T samples, L latent frames, D latent channels, C channels.
"""

import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.models import lapped
from melody_jax.models.convnext import ConvNextBlock
from melody_jax.models.layers import Conv1d, Dense, LayerNorm, param_with_axes
from melody_jax.models.spectral_codec import SpectralDecoder, SpectralEncoder, find_phase

DECODERS = ("frame", "hifigan", "spectral")


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Sizes of the VAE.

  Attributes:
    latent_dim: Latent channels D.
    encoder_strides: Strides of the encoder's convolutions; their product is the hop.
    encoder_widths: Channels after each of them.
    encoder_blocks: Residual blocks after each of them.
    gain_edges: Band edges, in bins, of the gains handed to the first latent channels; they rise
      from 0 to the hop. Empty: neither gains nor shapes.
    shape_bins: Bins whose shape is handed to the channels after the gains.
    decoder: Form of the decoder: "frame" (overlap-add head), "hifigan", or "spectral" (with an
      encoder of its own).
    decoder_width: Channels of the frame or spectral decoder, or HiFi-GAN's first channels.
    decoder_blocks: Blocks of the frame or spectral decoder.
    n_fft: Samples of the spectral form's window.
    window_std: Standard deviation of its Gaussian, in samples.
    stft_hop: Samples between its spectra; divides the hop.
    phase_iterations: Iterations that find the phase after the spectral decoder.
    sample_rate: Sample rate in Hz; the spectral form weighs its bins by frequency.
    upsample_rates: HiFi-GAN's transposed convolutions; their product is the hop.
    resblock_kernels: Kernels of HiFi-GAN's multi-receptive-field fusion.
    resblock_dilations: Dilations of each residual block.
    kernel_size: Taps of the depthwise convolutions.
    mlp_ratio: Inner size of a block's MLP over its width.
    remat: Whether to recompute each residual block in the backward pass.
    dtype: Dtype of computation.
  """

  latent_dim: int
  encoder_strides: tuple[int, ...]
  encoder_widths: tuple[int, ...]
  encoder_blocks: tuple[int, ...]
  gain_edges: tuple[int, ...] = ()
  shape_bins: int = 0
  decoder: str = "frame"
  decoder_width: int = 384
  decoder_blocks: int = 6
  upsample_rates: tuple[int, ...] = ()
  resblock_kernels: tuple[int, ...] = (3, 7, 11)
  resblock_dilations: tuple[int, ...] = (1, 3, 5)
  n_fft: int = 0
  window_std: float = 0.0
  stft_hop: int = 0
  phase_iterations: int = 0
  sample_rate: int = 24_000
  kernel_size: int = 7
  mlp_ratio: int = 4
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if self.decoder not in DECODERS:
      raise ValueError(f"decoder is {self.decoder!r}: one of {', '.join(DECODERS)}")
    if not len(self.encoder_strides) == len(self.encoder_widths) == len(self.encoder_blocks):
      raise ValueError("encoder_strides, encoder_widths and encoder_blocks differ in length")
    if self.decoder == "hifigan" and math.prod(self.upsample_rates) != self.hop_length:
      raise ValueError(f"upsample_rates {self.upsample_rates} do not multiply to {self.hop_length}")
    if self.spectral:
      self._check_spectral()
    if not self.gain_edges:
      return
    if len(self.encoder_strides) > 1 or self.gain_edges[-1] != self.hop_length:
      raise ValueError(
        f"gain_edges must end at the only stride; they end at {self.gain_edges[-1]}, strides are"
        f" {self.encoder_strides}"
      )
    if self.direct_channels > self.latent_dim:
      raise ValueError(
        f"{self.direct_channels} gains and shapes do not fit latent_dim {self.latent_dim}"
      )

  def _check_spectral(self) -> None:
    sizes = self.n_fft, self.window_std, self.stft_hop, self.phase_iterations
    if min(sizes) <= 0:
      raise ValueError(
        "the spectral form needs n_fft, window_std, stft_hop and phase_iterations above 0; they"
        f" are {', '.join(map(str, sizes))}"
      )
    if len(self.encoder_strides) > 1 or self.hop_length % self.stft_hop:
      raise ValueError(
        f"the only stride of the spectral form must be a multiple of stft_hop {self.stft_hop};"
        f" strides are {self.encoder_strides}"
      )

  @property
  def spectral(self) -> bool:
    """Whether latents hold magnitudes alone."""
    return self.decoder == "spectral"

  @property
  def stacked_bins(self) -> int:
    """Bins of all spectra of a latent frame."""
    return self.hop_length // self.stft_hop * (self.n_fft // 2 + 1)

  @property
  def hop_length(self) -> int:
    """Samples per latent frame."""
    return math.prod(self.encoder_strides)

  @property
  def n_gains(self) -> int:
    """Bands with a gain."""
    return max(len(self.gain_edges) - 1, 0)

  @property
  def direct_channels(self) -> int:
    """Latent channels that begin as gains and shapes."""
    return self.n_gains + self.shape_bins


def _mdct_init(bins: int):
  def init(key, shape, dtype=jnp.float32):
    del key
    return jnp.asarray(lapped.mdct_basis(bins), dtype).reshape(shape)

  return init


def _posterior_init(config: VAEConfig):
  """Means of channels without gain or shape begin at unit spread, all else at zero.

  From small means these channels drown in the posterior's noise at once, the decoder learns
  to ignore them, and they never carry anything.
  """

  def init(key, shape, dtype=jnp.float32):
    channel = jnp.arange(shape[1])
    free = (channel >= config.direct_channels) & (channel < config.latent_dim)
    return jnp.where(free[None, :], nn.initializers.lecun_normal()(key, shape, dtype), 0.0)

  return init


class Encoder(nn.Module):
  """Waveform [B, T] -> posterior mean and log-variance, each [B, T / hop, D]."""

  config: VAEConfig

  @nn.compact
  def __call__(self, audio_BT):
    c = self.config
    block = nn.remat(ConvNextBlock) if c.remat else ConvNextBlock
    x = audio_BT[:, :, None].astype(c.dtype)
    direct = None
    for i, (stride, width, blocks) in enumerate(
      zip(c.encoder_strides, c.encoder_widths, c.encoder_blocks, strict=True)
    ):
      # Kernels of two strides and one stride of zeros: T / stride frames, each centred on its own
      # samples.
      pad = stride // 2
      # The whole stride is one transform then, and its bins are what gains and shapes are made of.
      if c.gain_edges:
        x = Conv1d(
          stride,
          2 * stride,
          stride,
          padding=(pad, stride - pad),
          use_bias=False,
          kernel_init=_mdct_init(stride),
          dtype=c.dtype,
          name=f"transform_{i}",
        )(x)
        gains, shapes = lapped.split_gains(x.astype(jnp.float32), c.gain_edges)
        # Around the network to the first channels: levels and rhythm pass, whatever it has learnt.
        direct = jnp.concatenate([gains, shapes[..., : c.shape_bins]], axis=-1)
        x = jnp.concatenate([gains, shapes], axis=-1)
        x = Dense(width, ("conv_in", "embed"), dtype=c.dtype, name=f"stem_{i}")(x)
      else:
        x = Conv1d(
          width, 2 * stride, stride, padding=(pad, stride - pad), dtype=c.dtype, name=f"down_{i}"
        )(x)
      for j in range(blocks):
        x = block(c.kernel_size, c.mlp_ratio, c.dtype, name=f"block_{i}_{j}")(x)
    x = LayerNorm(dtype=c.dtype, name="norm")(x)
    x = Dense(
      2 * c.latent_dim,
      ("embed", "norm"),
      dtype=c.dtype,
      name="posterior",
      kernel_init=_posterior_init(c),
    )(x).astype(jnp.float32)
    mean, log_variance = jnp.split(x, 2, axis=-1)
    if direct is not None:
      room = c.latent_dim - c.direct_channels
      mean = mean + jnp.pad(direct, ((0, 0), (0, 0), (0, room)))
    # At birth the noise is exp(-2) = 0.14 of a unit mean, so that the decoder hears the means. The
    # bounds keep both exponentials of the loss finite.
    return mean, jnp.clip(log_variance - 4.0, -12.0, 4.0)


class FrameDecoder(nn.Module):
  """Latents [B, L, D] -> waveform [B, L * hop]: blocks at frame rate, then a lapped transform."""

  config: VAEConfig

  @nn.compact
  def __call__(self, latents_BLD):
    c = self.config
    hop = c.hop_length
    block = nn.remat(ConvNextBlock) if c.remat else ConvNextBlock
    z = latents_BLD.astype(c.dtype)
    x = Conv1d(c.decoder_width, 3, dtype=c.dtype, name="stem")(z)
    for i in range(c.decoder_blocks):
      x = block(c.kernel_size, c.mlp_ratio, c.dtype, name=f"block_{i}")(x)
    x = LayerNorm(dtype=c.dtype, name="norm")(x)
    bins = Dense(
      hop,
      ("embed", "conv_out"),
      dtype=c.dtype,
      name="bins",
      kernel_init=nn.initializers.normal(0.01),
    )(x)
    bins = bins.astype(jnp.float32)
    if c.gain_edges:
      gains, shapes = jnp.split(
        latents_BLD[..., : c.direct_channels].astype(jnp.float32), [c.n_gains], axis=-1
      )
      # The network's own bins begin near zero: it starts as a correction of what passes around it.
      bins = bins + jnp.pad(shapes, ((0, 0), (0, 0), (0, hop - c.shape_bins)))
      bins = lapped.join_gains(gains, bins, c.gain_edges)
    basis = param_with_axes(self, "basis", _mdct_init(hop), (2 * hop, hop), ("kernel", "conv_in"))
    # The transform of a frame begins half a hop before it, as the encoder's does; that half is cut
    # off below.
    audio = lapped.overlap_add(jnp.dot(bins, basis.T), hop)
    return audio[:, hop // 2 : hop // 2 + latents_BLD.shape[1] * hop]


class TransposedConv1d(nn.Module):
  """Transposed convolution, kernel 2 * rate: [B, L, C] -> [B, L * rate, features]."""

  features: int
  rate: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    shape = (2 * self.rate, x.shape[-1], self.features)
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
  """HiFi-GAN's residual block, dilated and plain convolutions: [B, T, C] -> [B, T, C]."""

  kernel_size: int
  dilations: tuple[int, ...]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    for i, dilation in enumerate(self.dilations):
      y = Conv1d(width, self.kernel_size, dilation=dilation, dtype=self.dtype, name=f"dilated_{i}")(
        nn.leaky_relu(x, 0.1)
      )
      y = Conv1d(width, self.kernel_size, dtype=self.dtype, name=f"plain_{i}")(
        nn.leaky_relu(y, 0.1)
      )
      x = x + y
    return x


class HifiGanDecoder(nn.Module):
  """Latents [B, L, D] -> waveform [B, L * hop] (HiFi-GAN generator, arXiv 2010.05646)."""

  config: VAEConfig

  @nn.compact
  def __call__(self, latents_BLD):
    c = self.config
    block = nn.remat(ResidualBlock) if c.remat else ResidualBlock
    x = Conv1d(c.decoder_width, 7, dtype=c.dtype, name="stem")(latents_BLD)
    width = c.decoder_width
    for i, rate in enumerate(c.upsample_rates):
      width //= 2
      x = TransposedConv1d(width, rate, c.dtype, name=f"up_{i}")(nn.leaky_relu(x, 0.1))
      # Kernels of several sizes hear the same signal at several scales, and are averaged
      # (HiFi-GAN).
      fused = [
        block(k, c.resblock_dilations, c.dtype, name=f"fusion_{i}_{k}")(x)
        for k in c.resblock_kernels
      ]
      x = sum(fused) / len(fused)
    # In float32: bfloat16 would round the waveform to 8 bits.
    x = Conv1d(1, 7, name="head")(nn.leaky_relu(x, 0.1).astype(jnp.float32))
    return jnp.tanh(x[..., 0])


class VAE(nn.Module):
  """Encoder and decoder; methods `encode`, `decode` and `__call__` (both, for init)."""

  config: VAEConfig

  def setup(self):
    decoders = {"frame": FrameDecoder, "hifigan": HifiGanDecoder, "spectral": SpectralDecoder}
    self.encoder = (SpectralEncoder if self.config.spectral else Encoder)(self.config)
    self.decoder = decoders[self.config.decoder](self.config)

  def encode(self, audio_BT):
    """[B, T] -> posterior mean, log-variance [B, T / hop, D]; T is a multiple of the hop."""
    return self.encoder(audio_BT)

  def decode(self, latents_BLD, start_B=None):
    """Unscaled latents [B, L, D] -> waveform [B, L * hop].

    `start_B`, int32, is the first frame of each row in its piece (None: 0); only the phase of the
    spectral form depends on it.
    """
    # The search for the phase is no part of the decoder: training compares magnitudes and does not
    # pay for it.
    decoded = self.decoder(latents_BLD)
    if not self.config.spectral:
      return decoded
    c = self.config
    # The phase counts frames of the STFT, of which a latent frame has several.
    start = None if start_B is None else start_B * (c.hop_length // c.stft_hop)
    return find_phase(decoded, c, start)

  def __call__(self, audio_BT, noise_BLD):
    """Everything that the loss compares, from audio and the noise of the latents.

    Args:
      audio_BT: Audio, float32 [B, T]; T is a multiple of the hop.
      noise_BLD: Standard normal noise, [B, L, D].

    Returns:
      The waveform [B, T] or, in the spectral form, log magnitudes [B, F, N]; mean and
      log-variance of the posterior, [B, L, D] each.
    """
    mean, log_variance = self.encode(audio_BT)
    # The noise is an argument, so that gradients reach mean and variance through the draw (Kingma &
    # Welling, 2014).
    latents = mean + jnp.exp(0.5 * log_variance) * noise_BLD
    return self.decoder(latents), mean, log_variance


def scale_latents(mean_BLD: jax.Array, center_D: jax.Array, sigma_D: jax.Array) -> jax.Array:
  """Posterior means -> the DPD's clean latents clip((mean - center) / (3 sigma), -1, 1).

  docs/spec.md, section 7, with the corpus mean of each channel taken off first (choice).
  """
  # Of a Gaussian 0.3 % lies beyond three spreads and is cut.
  return jnp.clip((mean_BLD - center_D[None, None, :]) / (3.0 * sigma_D)[None, None, :], -1.0, 1.0)


def unscale_latents(latents_BLD: jax.Array, center_D: jax.Array, sigma_D: jax.Array) -> jax.Array:
  """The DPD's latents [B, L, D] -> unscaled latents [B, L, D], which the decoder takes."""
  return latents_BLD * (3.0 * sigma_D)[None, None, :] + center_D[None, None, :]


def decoder_reach(config: VAEConfig) -> int:
  """Largest number of latent frames on either side that a frame's samples depend on."""
  hop = config.hop_length
  if config.spectral:
    # Each iteration hears one window to either side, the transform at the end half of one.
    phase = config.phase_iterations * config.n_fft + config.n_fft // 2
    return config.decoder_blocks * (config.kernel_size // 2) + -(-phase // hop)
  if config.decoder == "frame":
    # Stem, blocks, and the lapped transform, whose frames reach half a hop into their neighbours.
    return 1 + config.decoder_blocks * (config.kernel_size // 2) + 1
  samples, spacing = 3 * hop, hop  # the stem; `spacing` is that of a level's positions, in samples
  for rate in config.upsample_rates:
    samples += spacing  # a transposed convolution: its kernel is two of its strides wide
    spacing //= rate
    taps = max(config.resblock_kernels) // 2
    samples += spacing * taps * sum(dilation + 1 for dilation in config.resblock_dilations)
  return -(-(samples + 3) // hop)
