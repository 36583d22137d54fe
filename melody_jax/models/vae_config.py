"""Sizes of the VAE of the VAE-GAN (docs/spec.md, section 7), in all of its forms."""

import dataclasses
import math

DECODERS = ("frame", "hifigan", "spectral")


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Sizes of the VAE.

  Attributes:
    latent_dim: Latent channels D.
    encoder_strides: Strides of the encoder's convolutions; their product is the hop.
    encoder_widths: Channels after each of them.
    encoder_blocks: Residual blocks after each of them.
    encoder_kernels: Taps of HiFi-GAN's strided convolutions.
    clip_latents: Whether the decoder hears clip(z / 3, -1, 1) of a latent z, as in the paper. The
      DPD's latents are then clip(mean / 3, -1, 1), with no scale measured on a corpus.
    gain_edges: Band edges, in bins, of the gains handed to the first latent channels; they rise
      from 0 to the hop. Empty: neither gains nor shapes.
    shape_bins: Bins whose shape is handed to the channels after the gains.
    decoder: Form of the decoder: "frame" (overlap-add head), "hifigan" or "spectral" (both with
      an encoder of their own).
    decoder_width: Channels of the frame or spectral decoder, or HiFi-GAN's first channels.
    decoder_blocks: Blocks of the frame or spectral decoder.
    n_fft: Samples of the spectral form's window.
    window_std: Standard deviation of its Gaussian, in samples.
    stft_hop: Samples between its spectra; divides the hop.
    tilt: Exponent by which bins above 1.5 kHz weigh less in the principal axes.
    phase_iterations: Iterations that find the phase after the spectral decoder.
    sample_rate: Sample rate in Hz; the spectral form weighs its bins by frequency.
    upsample_rates: Strides of HiFi-GAN's transposed convolutions; their product is the hop.
    upsample_widths: Channels after each of them.
    upsample_kernels: Their taps.
    resblock_kernels: Kernels of HiFi-GAN's multi-receptive-field fusion, on both sides.
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
  encoder_kernels: tuple[int, ...] = ()
  clip_latents: bool = False
  gain_edges: tuple[int, ...] = ()
  shape_bins: int = 0
  decoder: str = "frame"
  decoder_width: int = 384
  decoder_blocks: int = 6
  upsample_rates: tuple[int, ...] = ()
  upsample_widths: tuple[int, ...] = ()
  upsample_kernels: tuple[int, ...] = ()
  resblock_kernels: tuple[int, ...] = (3, 7, 11)
  resblock_dilations: tuple[int, ...] = (1, 3, 5)
  n_fft: int = 0
  window_std: float = 0.0
  stft_hop: int = 0
  tilt: float = 0.5  # what bundles had before it became a setting
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
    if self.decoder == "hifigan":
      self._check_hifigan()
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

  def _check_hifigan(self) -> None:
    if math.prod(self.upsample_rates) != self.hop_length:
      raise ValueError(f"upsample_rates {self.upsample_rates} do not multiply to {self.hop_length}")
    if not len(self.upsample_rates) == len(self.upsample_widths) == len(self.upsample_kernels):
      raise ValueError("upsample_rates, upsample_widths and upsample_kernels differ in length")
    if len(self.encoder_kernels) != len(self.encoder_strides):
      raise ValueError("encoder_kernels and encoder_strides differ in length")
    pairs = [
      *zip(self.encoder_kernels, self.encoder_strides, strict=True),
      *zip(self.upsample_kernels, self.upsample_rates, strict=True),
    ]
    if any(kernel < stride for kernel, stride in pairs):
      raise ValueError("a kernel is shorter than its stride: it would skip samples")

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
