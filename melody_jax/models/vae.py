"""The VAE of the VAE-GAN: waveform to latents and back (docs/spec.md, section 7).

Three forms. "hifigan" (`hifigan`) is the paper's. "frame" works at the rate of the latents:
ConvNeXt blocks on both sides, and a head that is a learned lapped transform, so that nearly all of
it is matmul. Where the whole stride is one lapped transform (`gain_edges`) stem and head begin as
an MDCT and its inverse; gains of all bands and shapes of the lowest bins pass around the networks
(`lapped`): training starts from a low-passed copy. "spectral" (`spectral_codec`) keeps magnitudes
alone and finds the phase after decoding.

Shape letters: B batch, T samples, L latent frames, D latent channels, C channels.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.models import lapped
from melody_jax.models.convnext import ConvNextBlock
from melody_jax.models.hifigan import HifiGanDecoder, HifiGanEncoder, samples_of_reach
from melody_jax.models.layers import Conv1d, Dense, LayerNorm, param_with_axes
from melody_jax.models.spectral_codec import SpectralDecoder, SpectralEncoder, find_phase
from melody_jax.models.vae_config import VAEConfig

# The paper's latents are cut at three standard deviations of the prior.
LATENT_SCALE = 3.0


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
      out_dtype=jnp.float32,
      name="posterior",
      kernel_init=_posterior_init(c),
    )(x)
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
      out_dtype=jnp.float32,
      name="bins",
      kernel_init=nn.initializers.normal(0.01),
    )(x)
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


class VAE(nn.Module):
  """Encoder and decoder; methods `encode`, `decode` and `__call__` (both, for init)."""

  config: VAEConfig

  def setup(self):
    forms = {
      "frame": (Encoder, FrameDecoder),
      "hifigan": (HifiGanEncoder, HifiGanDecoder),
      "spectral": (SpectralEncoder, SpectralDecoder),
    }
    encoder, decoder = forms[self.config.decoder]
    self.encoder, self.decoder = encoder(self.config), decoder(self.config)

  def _heard(self, latents_BLD):
    """What the decoder hears of unscaled latents [B, L, D]."""
    if not self.config.clip_latents:
      return latents_BLD
    return jnp.clip(latents_BLD / LATENT_SCALE, -1.0, 1.0)

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
    decoded = self.decoder(self._heard(latents_BLD))
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
    return self.decoder(self._heard(latents)), mean, log_variance


def scale_latents(
  mean_BLD: jax.Array,
  center_D: jax.Array,
  sigma_D: jax.Array,
  gain_D: jax.Array | float = 1.0,
) -> jax.Array:
  """Posterior means -> the DPD's clean latents gain clip((mean - center) / (3 sigma), -1, 1).

  docs/spec.md, section 7.5: with `VAEConfig.clip_latents` centre is 0 and sigma 1, the paper's
  form; else both were measured on the corpus (choice).

  Args:
    mean_BLD: Posterior means, float [B, L, D].
    center_D: Mean of each channel over the corpus, float [D].
    sigma_D: Standard deviation of each channel over the corpus, float [D].
    gain_D: Largest value of each channel, float [D]; 1 whitens wholly, as the paper does.

  Returns:
    float [B, L, D].
  """
  scale_D = LATENT_SCALE * sigma_D
  # Of a Gaussian 0.3 % lies beyond three spreads and is cut.
  unit = jnp.clip((mean_BLD - center_D[None, None, :]) / scale_D[None, None, :], -1.0, 1.0)
  return unit * jnp.reshape(gain_D, (1, 1, -1))


def unscale_latents(
  latents_BLD: jax.Array,
  center_D: jax.Array,
  sigma_D: jax.Array,
  gain_D: jax.Array | float = 1.0,
) -> jax.Array:
  """The DPD's latents [B, L, D] -> unscaled latents [B, L, D], which the decoder takes."""
  unit = latents_BLD / jnp.reshape(gain_D, (1, 1, -1))
  return unit * (LATENT_SCALE * sigma_D)[None, None, :] + center_D[None, None, :]


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
  return -(-samples_of_reach(config) // hop)
