"""Discriminators of the VAE-GAN (docs/spec.md, section 7.1).

Over waveforms: HiFi-GAN's of several periods (Kong et al. 2020, arXiv 2010.05646), and UnivNet's of
spectrograms of several resolutions (Jang et al. 2021, arXiv 2106.07889). Each returns (logits,
feature maps); the losses over them are in losses/adversarial.py. The first and the last layer of
each compute in float32, the others in the config's dtype.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.models.hifigan import SLOPE, scaled
from melody_jax.models.layers import Conv2d
from melody_jax.spectral import stft_magnitude

Judgement = tuple[jax.Array, list[jax.Array]]


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """Sizes of the discriminators.

  Attributes:
    periods: Periods of the multi-period discriminator (HiFi-GAN's 2, 3, 5, 7, 11).
    period_channels: Channels of its strided convolutions.
    resolutions: (n_fft, hop, window) in samples of each spectrogram discriminator, UnivNet's.
    resolution_channels: Channels of their convolutions.
    bands: Number of discriminators over log magnitudes, one a band; read where the codec has no
      phase.
    dtype: Dtype of computation.
  """

  periods: tuple[int, ...] = (2, 3, 5, 7, 11)
  period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
  resolutions: tuple[tuple[int, int, int], ...] = (
    (1024, 120, 600),
    (2048, 240, 1200),
    (512, 50, 240),
  )
  resolution_channels: int = 32
  bands: int = 4
  dtype: str = "float32"


class PeriodDiscriminator(nn.Module):
  """Discriminator of one period: waveform [B, T] -> (logits, feature maps).

  The waveform is folded to [B, T / period, period] and convolved along time only.
  """

  period: int
  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, audio_BT) -> Judgement:
    x = jnp.pad(scaled(audio_BT), ((0, 0), (0, -audio_BT.shape[1] % self.period)), mode="reflect")
    # A column then holds every period-th sample, so kernels of width 1 see one phase at a time.
    x = x.reshape(x.shape[0], -1, self.period, 1)
    features = []
    last = len(self.config.period_channels) - 1
    for i, channels in enumerate(self.config.period_channels):
      # HiFi-GAN's strides.
      stride = 3 if i < last else 1
      dtype = self.config.dtype if i else jnp.float32
      x = Conv2d(channels, (5, 1), (stride, 1), dtype, name=f"conv_{i}")(x)
      x = nn.leaky_relu(x, SLOPE).astype(self.config.dtype)
      features.append(x)
    # The losses are differences of nearby numbers, which bfloat16 would round away.
    return Conv2d(1, (3, 1), name="head")(x), features


def _judge_spectrum(config: DiscriminatorConfig, magnitude_BxFxN: jax.Array) -> Judgement:
  """Judges magnitudes, or logs of them, [B, F, N] by convolutions that stride over frequency.

  To be called in the compact method of a module.
  """
  x = magnitude_BxFxN[..., None]
  features = []
  for i, (kernel, stride) in enumerate(
    (((3, 9), (1, 1)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 3), (1, 1)))
  ):
    dtype = config.dtype if i else jnp.float32
    x = Conv2d(config.resolution_channels, kernel, stride, dtype, name=f"conv_{i}")(x)
    x = nn.leaky_relu(x, SLOPE).astype(config.dtype)
    features.append(x)
  return Conv2d(1, (3, 3), name="head")(x), features


class SpectrogramDiscriminator(nn.Module):
  """Discriminator of magnitude spectrograms: waveform [B, T] -> (logits, feature maps).

  Attributes:
    resolution: n_fft, hop and window in samples.
  """

  resolution: tuple[int, int, int]
  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, audio_BT) -> Judgement:
    return _judge_spectrum(self.config, stft_magnitude(scaled(audio_BT), *self.resolution))


class BandDiscriminator(nn.Module):
  """Discriminator of one band: log magnitudes [B, F, N] -> (logits, feature maps)."""

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, log_magnitude_BxFxN) -> Judgement:
    return _judge_spectrum(self.config, log_magnitude_BxFxN)


class SpectrumDiscriminators(nn.Module):
  """Discriminators of a codec without phase: log magnitudes [B, F, N] -> a judgement of each band.

  Each sees an equal part of the bins, with kernels of its own: what is texture among the cymbals
  is an error among the lowest partials.
  """

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, log_magnitude_BxFxN) -> list[Judgement]:
    # Bands of nearly equal width: the bins need not divide by their number.
    bands = jnp.array_split(log_magnitude_BxFxN, self.config.bands, axis=-1)
    return [BandDiscriminator(self.config, name=f"band_{i}")(band) for i, band in enumerate(bands)]


class Discriminators(nn.Module):
  """All discriminators over one waveform [B, T] -> a judgement of each."""

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, audio_BT) -> list[Judgement]:
    # A name for each, so that adding a period leaves the parameters of others alone.
    judges: list[nn.Module] = [
      PeriodDiscriminator(p, self.config, name=f"period_{p}") for p in self.config.periods
    ]
    judges += [
      SpectrogramDiscriminator(r, self.config, name=f"spectrogram_{r[0]}")
      for r in self.config.resolutions
    ]
    return [judge(audio_BT) for judge in judges]
