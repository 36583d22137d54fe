"""A codec of magnitudes without phase: the encoder and decoder of the VAE's "spectral" form.

Latents that carry phase turn with every partial, and a small denoiser draws noise in their place.
So the encoder hears log magnitudes under a Gaussian window, and the decoder writes log magnitudes
and finds a phase that fits them (choice; `paper` keeps the paper's VAE-GAN).

Both are born as the corpus' principal axes (`python -m melody_jax.fit`): before any training the
codec is the best linear one of its size. Residual blocks on both sides, zero at birth, learn what
lines add.

Shape letters: B batch, T samples, L latent frames, F frames of the STFT (a whole number a latent
frame), N bins, S stacked bins of a latent frame, D latent channels.
"""

from typing import Protocol

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.models.convnext import ConvNextBlock
from melody_jax.models.layers import Dense, LayerNorm, param_with_axes
from melody_jax.spectral import frame

# Magnitudes under this are silence: 2e-5 of full scale under a window whose sum is about 1,260.
MAGNITUDE_FLOOR = 0.02
# A full-scale tone has 6.4; what a network says beyond is an accident.
MAX_LOG_MAGNITUDE = 7.0
MOMENTUM = 0.99  # of fast Griffin-Lim (Perraudin et al., 2013)
TILT_HZ = 1500.0  # bins above weigh less: there are more of them than ears tell apart
# Of the posterior at birth, in spreads of a latent: small enough that faint lines stay.
_LOG_VARIANCE = -5.0


class SpectralSizes(Protocol):
  """Fields that this form reads of `vae.VAEConfig`.

  A protocol, because vae imports this page and cannot be imported here.
  """

  @property
  def decoder_blocks(self) -> int: ...

  @property
  def decoder_width(self) -> int: ...

  @property
  def dtype(self) -> str: ...

  @property
  def encoder_blocks(self) -> tuple[int, ...]: ...

  @property
  def encoder_widths(self) -> tuple[int, ...]: ...

  @property
  def kernel_size(self) -> int: ...

  @property
  def latent_dim(self) -> int: ...

  @property
  def mlp_ratio(self) -> int: ...

  @property
  def n_fft(self) -> int: ...

  @property
  def phase_iterations(self) -> int: ...

  @property
  def remat(self) -> bool: ...

  @property
  def sample_rate(self) -> int: ...

  @property
  def stacked_bins(self) -> int: ...

  @property
  def stft_hop(self) -> int: ...

  @property
  def tilt(self) -> float: ...

  @property
  def window_std(self) -> float: ...


def gaussian_window(n_fft: int, std: float) -> np.ndarray:
  """exp(-(t / std)^2 / 2) about the middle: float32 [n_fft]; `std` in samples."""
  t = np.arange(n_fft) - n_fft // 2
  return np.exp(-0.5 * (t / std) ** 2).astype(np.float32)


def bin_weights(n_fft: int, sample_rate: int, tilt: float) -> np.ndarray:
  """Weights of the bins' log magnitudes, (1 + f / 1.5 kHz)^-tilt, of unit power: float32 [N]."""
  hz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
  weights = (1.0 + hz / TILT_HZ) ** -tilt
  return (weights / np.sqrt(np.mean(weights**2))).astype(np.float32)


def stft(audio_BxT: jax.Array, window: np.ndarray, hop: int) -> jax.Array:
  """Complex spectra [B, F, N] of frames centred on the middle of each hop; F = T / hop.

  Zeros stand beyond the ends. T is a multiple of `hop`.
  """
  n_fft, frames = len(window), audio_BxT.shape[1] // hop
  length = -(-n_fft // hop) * hop  # whole hops: frames are joined from slices, not gathered
  x = jnp.pad(audio_BxT.astype(jnp.float32), ((0, 0), ((n_fft - hop) // 2, length)))
  x = frame(x, length, hop)[:, :frames, :n_fft]
  return jnp.fft.rfft(x * jnp.asarray(window)[None, None, :])


def _overlap_add(frames_BxFxK: jax.Array, hop: int) -> jax.Array:
  """Sum of frames at spacing `hop`: [B, F, K] -> [B, about F hop + K]."""
  batch, frames, k = frames_BxFxK.shape
  blocks = -(-k // hop)
  x = jnp.pad(frames_BxFxK, ((0, 0), (0, 0), (0, blocks * hop - k)))
  x = x.reshape(batch, frames, blocks, hop)
  total = jnp.zeros((batch, frames + blocks - 1, hop), x.dtype)
  # Blocks of one hop, shifted: additions only, where a scatter would be slow.
  for i in range(blocks):
    total = total + jnp.pad(x[:, :, i], ((0, 0), (i, blocks - 1 - i), (0, 0)))
  return total.reshape(batch, -1)


def istft(spectra_BxFxN: jax.Array, window: np.ndarray, hop: int) -> jax.Array:
  """The waveform [B, F hop] whose `stft` is nearest to the spectra (Griffin & Lim, 1984)."""
  n_fft, frames = len(window), spectra_BxFxN.shape[1]
  pieces = jnp.fft.irfft(spectra_BxFxN, n=n_fft) * jnp.asarray(window)[None, None, :]
  # Dividing by the sum of squared windows makes it the least-squares answer for any hop.
  squares = jnp.broadcast_to(jnp.asarray(window**2), (1, frames, n_fft))
  audio = _overlap_add(pieces, hop) / jnp.maximum(_overlap_add(squares, hop), 1e-3)
  # Undoes the padding of `stft`.
  begin = (n_fft - hop) // 2
  return audio[:, begin : begin + frames * hop]


def log_magnitudes(audio_BxT: jax.Array, config: SpectralSizes) -> jax.Array:
  """Natural logs of the STFT's magnitudes over a floor: float32 [B, F, N]."""
  spectra = stft(audio_BxT, gaussian_window(config.n_fft, config.window_std), config.stft_hop)
  power = jnp.square(spectra.real) + jnp.square(spectra.imag)
  # 1e-10, because a root has no gradient at zero. The floor hides what lies under it; it was chosen
  # by held notes, see docs/experiments.md.
  return jnp.log(jnp.sqrt(power + 1e-10) + MAGNITUDE_FLOOR)


def find_phase(
  log_magnitudes_BxFxN: jax.Array, config: SpectralSizes, start_B: jax.Array | None = None
) -> jax.Array:
  """A waveform that has these magnitudes: fast Griffin-Lim (Perraudin et al., 2013).

  Every bin begins as a tone of its own frequency that runs since the beginning of the piece, so
  that a window decoded from the middle of a piece agrees with the whole. An iteration reaches one
  window to either side: what lies further away than all of them (`vae.decoder_reach`) is not heard.

  Args:
    log_magnitudes_BxFxN: Log magnitudes, as `log_magnitudes` gives them.
    config: Sizes, and the number of iterations.
    start_B: First frame (of the STFT) of each row in its piece, int32 [B]; None is 0.

  Returns:
    float32 [B, F hop].
  """
  n_fft, hop = config.n_fft, config.stft_hop
  window = gaussian_window(n_fft, config.window_std)
  batch, frames, bins = log_magnitudes_BxFxN.shape
  magnitudes = jnp.exp(jnp.minimum(log_magnitudes_BxFxN.astype(jnp.float32), MAX_LOG_MAGNITUDE))
  # The floor was added before the logarithm.
  magnitudes = jnp.maximum(magnitudes - MAGNITUDE_FLOOR, 0.0)
  start = jnp.zeros((batch,), jnp.int32) if start_B is None else start_B.astype(jnp.int32)
  # In whole samples of a period, modulo n_fft: exact however long the piece is.
  frame_BxF = (start[:, None] + jnp.arange(frames)[None, :]) % n_fft
  turns = (frame_BxF * hop % n_fft)[:, :, None] * jnp.arange(bins)[None, None, :] % n_fft
  phases = jnp.exp(2j * jnp.pi / n_fft * turns.astype(jnp.float32))

  def iterate(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    phases, before = carry
    now = stft(istft(magnitudes * phases, window, hop), window, hop)
    # now + m (now - before), but for a factor that the division by its own magnitude takes away.
    ahead = now - MOMENTUM / (1.0 + MOMENTUM) * before
    return ahead / (jnp.abs(ahead) + 1e-9), now

  # A loop: unrolled, the program would be as many times as long as there are iterations.
  phases, _ = jax.lax.fori_loop(
    0, config.phase_iterations, iterate, (phases, jnp.zeros_like(phases))
  )
  return istft(magnitudes * phases, window, hop)


def _axes_init(rng: jax.Array, shape: tuple[int, int], dtype=jnp.float32) -> jax.Array:
  """Random directions until `fit` puts the principal axes in their place."""
  return jax.random.normal(rng, shape, dtype) / np.sqrt(max(shape))


class SpectralEncoder(nn.Module):
  """Waveform [B, T] -> posterior mean and log-variance, each [B, L, D]."""

  config: SpectralSizes

  @nn.compact
  def __call__(self, audio_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    c = self.config
    block = nn.remat(ConvNextBlock) if c.remat else ConvNextBlock
    weights = bin_weights(c.n_fft, c.sample_rate, c.tilt)
    x = log_magnitudes(audio_BxT, c) * jnp.asarray(weights)[None, None, :]
    x = x.reshape(len(x), -1, c.stacked_bins)
    offset = param_with_axes(
      self, "offset", nn.initializers.zeros_init(), (c.stacked_bins,), ("norm",)
    )
    # The corpus' mean, fitted with the axes.
    x = x - offset[None, None, :]
    axes = param_with_axes(
      self, "axes", _axes_init, (c.stacked_bins, c.latent_dim), ("conv_in", "embed_out")
    )
    # In float32 and past the network: until the network learns, this is the whole codec.
    linear = jnp.dot(x, axes)
    x = Dense(c.encoder_widths[0], ("conv_in", "embed"), dtype=c.dtype, name="stem")(x)
    for i in range(c.encoder_blocks[0]):
      x = block(c.kernel_size, c.mlp_ratio, c.dtype, name=f"block_{i}")(x)
    x = LayerNorm(dtype=c.dtype, name="norm")(x)
    # Zero at birth: training begins with the best linear codec of its size.
    zeros = nn.initializers.zeros_init()
    x = Dense(2 * c.latent_dim, ("embed", "norm"), kernel_init=zeros, name="posterior")(x)
    mean, log_variance = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return linear + mean, jnp.clip(log_variance + _LOG_VARIANCE, -12.0, 4.0)


class SpectralDecoder(nn.Module):
  """Latents [B, L, D] -> log magnitudes [B, F, N]; `find_phase` makes them a waveform."""

  config: SpectralSizes

  @nn.compact
  def __call__(self, latents_BxLxD: jax.Array) -> jax.Array:
    c = self.config
    block = nn.remat(ConvNextBlock) if c.remat else ConvNextBlock
    offset = param_with_axes(
      self, "offset", nn.initializers.zeros_init(), (c.stacked_bins,), ("norm",)
    )
    axes = param_with_axes(
      self, "axes", _axes_init, (c.latent_dim, c.stacked_bins), ("embed", "conv_out")
    )
    linear = jnp.dot(latents_BxLxD.astype(jnp.float32), axes) + offset[None, None, :]
    x = Dense(c.decoder_width, ("embed_out", "embed"), dtype=c.dtype, name="stem")(latents_BxLxD)
    for i in range(c.decoder_blocks):
      x = block(c.kernel_size, c.mlp_ratio, c.dtype, name=f"block_{i}")(x)
    x = LayerNorm(dtype=c.dtype, name="norm")(x)
    zeros = nn.initializers.zeros_init()
    x = Dense(
      c.stacked_bins, ("embed", "conv_out"), dtype=c.dtype, out_dtype=jnp.float32,
      kernel_init=zeros, name="head",
    )(x)  # fmt: skip
    x = (linear + x).reshape(len(x), -1, c.n_fft // 2 + 1)
    # The axes are those of weighted magnitudes, so the weights are taken off at the end.
    return x / jnp.asarray(bin_weights(c.n_fft, c.sample_rate, c.tilt))[None, None, :]
