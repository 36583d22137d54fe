"""Spectrograms and sample rates in JAX, shared by losses, MuLan and metrics.

Shape letters: B batch, T samples, F frames, N frequency bins, M mel bands.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def frame(x_BT: jax.Array, win_length: int, hop_length: int) -> jax.Array:
  """Cuts waveforms [B, T] into frames [B, F, win_length]; F = 1 + (T - win_length) // hop_length.

  Args:
    x_BT: Waveforms.
    win_length: Length of a frame in samples.
    hop_length: Samples between the starts of two frames.
  """
  n_frames = 1 + (x_BT.shape[1] - win_length) // hop_length
  if win_length % hop_length == 0:
    # Shifted slices have a cheap gradient (additions); that of a gather is a slow scatter.
    per_window = win_length // hop_length
    blocks = x_BT[:, : (n_frames + per_window - 1) * hop_length]
    blocks = blocks.reshape(x_BT.shape[0], n_frames + per_window - 1, hop_length)
    return jnp.concatenate([blocks[:, i : i + n_frames] for i in range(per_window)], axis=-1)
  # The next whole number of hops, then cut to the window.
  longer = -(-win_length // hop_length) * hop_length
  x_BT = jnp.pad(x_BT, ((0, 0), (0, longer - win_length)))
  return frame(x_BT, longer, hop_length)[:, :, :win_length]


def stft_magnitude(
  x_BT: jax.Array,
  n_fft: int,
  hop_length: int,
  win_length: int | None = None,
  center: bool = True,
  power: bool = False,
) -> jax.Array:
  """Magnitude (or power) spectrogram [B, F, N] with a periodic Hann window; N = n_fft // 2 + 1.

  Args:
    x_BT: Waveforms.
    n_fft: Size of the FFT; frames are padded with zeros to it.
    hop_length: Samples between the starts of two frames.
    win_length: Length of a frame in samples; None means n_fft.
    center: Pads the ends by reflection, so that frame i is centred on sample i * hop_length.
    power: Returns squared magnitudes.
  """
  win_length = win_length or n_fft
  if center:
    x_BT = jnp.pad(x_BT, ((0, 0), (win_length // 2, win_length // 2)), mode="reflect")
  # Periodic, not symmetric: shifted by half their length, such windows add up to a constant.
  window = jnp.asarray(np.hanning(win_length + 1)[:-1], jnp.float32)
  frames = frame(x_BT.astype(jnp.float32), win_length, hop_length) * window[None, None, :]
  spectrum = jnp.fft.rfft(frames, n=n_fft, axis=-1)
  # Not abs(): its gradient, and that of sqrt(0), is NaN in silence; 1e-10 keeps it finite.
  squared = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  return squared if power else jnp.sqrt(squared + 1e-10)


@functools.lru_cache(maxsize=32)
def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float = 0.0) -> np.ndarray:
  """Mel filters in Slaney's form, as librosa makes them: float32 [n_fft // 2 + 1, n_mels]."""
  import librosa

  return np.ascontiguousarray(
    librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min).T.astype(np.float32)
  )


def log_mel(
  audio_BxT: jax.Array,
  sample_rate: int,
  n_fft: int,
  win_length: int,
  hop_length: int,
  n_mels: int,
  floor: float = 1e-5,
) -> jax.Array:
  """Natural logarithm of mel magnitudes [B, F, M]; F = T // hop_length + 1.

  Args:
    audio_BxT: Waveforms.
    sample_rate: Sample rate in Hz.
    n_fft: Size of the FFT.
    win_length: Length of a frame in samples.
    hop_length: Samples between the centres of two frames.
    n_mels: Number M of mel bands.
    floor: Smallest magnitude before the logarithm.
  """
  magnitude = stft_magnitude(audio_BxT, n_fft, hop_length, win_length)
  mel = jnp.dot(magnitude, jnp.asarray(mel_filters(sample_rate, n_fft, n_mels)))
  return jnp.log(jnp.maximum(mel, floor))


@functools.lru_cache(maxsize=32)
def kaldi_mel_filters(
  sample_rate: int, n_fft: int, n_mels: int, f_min: float = 20.0, f_max: float | None = None
) -> np.ndarray:
  """Mel filters in Kaldi's form, triangles over mels and not over Hz.

  Args:
    sample_rate: Sample rate in Hz.
    n_fft: Size of the FFT.
    n_mels: Number M of mel bands.
    f_min: Frequency in Hz at which the first triangle begins.
    f_max: Frequency in Hz at which the last one ends; None: half the sample rate.

  Returns:
    float32 [n_fft // 2 + 1, n_mels].
  """

  def mel(hz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hz / 700.0)

  corners = np.linspace(mel(np.array(f_min)), mel(np.array(f_max or sample_rate / 2)), n_mels + 2)
  bins = mel(np.arange(n_fft // 2 + 1) * (sample_rate / n_fft))[:, None]
  left, middle, right = corners[None, :-2], corners[None, 1:-1], corners[None, 2:]
  rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
  return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


_PRE_EMPHASIS = 0.97
_KALDI_FLOOR = float(np.finfo(np.float32).eps)


def kaldi_fbank(
  audio_BxT: jax.Array,
  sample_rate: int,
  n_fft: int,
  win_length: int,
  hop_length: int,
  n_mels: int,
) -> jax.Array:
  """Natural logarithm of mel power as Kaldi's "fbank" has it, without dither: float32 [B, F, M].

  Each frame loses its mean and is emphasised, y[t] = x[t] - 0.97 x[t - 1], before a symmetric Hann
  window. Only whole frames count: F = 1 + (T - win_length) // hop_length.

  Args:
    audio_BxT: Waveforms.
    sample_rate: Sample rate in Hz.
    n_fft: Size of the FFT; frames are padded with zeros to it.
    win_length: Length of a frame in samples.
    hop_length: Samples between the starts of two frames.
    n_mels: Number M of mel bands.
  """
  frames = frame(audio_BxT.astype(jnp.float32), win_length, hop_length)
  frames = frames - jnp.mean(frames, axis=-1, keepdims=True)
  # The sample before a frame's first counts as equal to it.
  previous = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
  window = jnp.asarray(np.hanning(win_length), jnp.float32)
  frames = (frames - _PRE_EMPHASIS * previous) * window[None, None, :]
  spectrum = jnp.fft.rfft(frames, n=n_fft, axis=-1)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  filters = jnp.asarray(kaldi_mel_filters(sample_rate, n_fft, n_mels))
  # Accelerators would round the factors to bfloat16.
  mel = jnp.dot(power, filters, precision=jax.lax.Precision.HIGHEST)
  return jnp.log(jnp.maximum(mel, _KALDI_FLOOR))


_ZERO_CROSSINGS = 60  # of the resampler's windowed sinc, on either side
_ROLL_OFF = 0.955  # the cutoff's share of the lower Nyquist frequency
_BLOCK = 192  # least number of samples of a block: wide enough for matrix units


@functools.lru_cache(maxsize=8)
def resampling_filter(up: int, down: int) -> np.ndarray:
  """Low-pass filter of `resample`, at `up` times the input's rate: float64 [2 half + 1].

  A sinc under a Kaiser window, flat to 0.91 of the lower Nyquist frequency, 80 dB down from 1 on.
  """
  from scipy import signal

  widest = max(up, down)
  return up * signal.firwin(
    2 * _ZERO_CROSSINGS * widest + 1, _ROLL_OFF / widest, window=("kaiser", 8.0)
  )


@functools.lru_cache(maxsize=8)
def _resampling_blocks(up: int, down: int) -> tuple[int, np.ndarray]:
  """Samples before a block that it needs, and the map of 2 hops of input to a block of output."""
  taps = resampling_filter(up, down)
  half = len(taps) // 2
  left = half // up
  # No wider than needed: the map grows with the square, and 44.1 kHz has long steps as it is.
  steps = -(-max(_BLOCK, 2 * left + 2) // down)
  i = np.arange(2 * steps * down)[:, None] - left
  j = np.arange(steps * up)[None, :]
  place = j * down - i * up + half
  inside = (place >= 0) & (place < len(taps))
  return left, np.where(inside, taps[np.clip(place, 0, len(taps) - 1)], 0.0).astype(np.float32)


def resample(audio_BxT: jax.Array, rate_in: int, rate_out: int) -> jax.Array:
  """Waveforms at another sample rate: [B, T] -> float32 [B, ceil(T rate_out / rate_in)].

  The polyphase filter of scipy.signal.resample_poly, as one matrix product over blocks, so that it
  is a part of a compiled program and runs on matrix units. Beyond its ends a clip is silent.

  Args:
    audio_BxT: Waveforms.
    rate_in: Their sample rate in Hz.
    rate_out: Sample rate in Hz of the result.
  """
  audio_BxT = audio_BxT.astype(jnp.float32)
  if rate_in == rate_out:
    return audio_BxT
  common = math.gcd(rate_in, rate_out)
  up, down = rate_out // common, rate_in // common
  left, matrix = _resampling_blocks(up, down)
  hop, made = len(matrix) // 2, matrix.shape[1]
  batch, samples = audio_BxT.shape
  n_out = -(-samples * up // down)
  n_blocks = -(-n_out // made)
  # Samples that only outputs behind the last one would need may be cut.
  padded = jnp.pad(audio_BxT, ((0, 0), (left, hop * (n_blocks + 1))))[:, : hop * (n_blocks + 1)]
  blocks = frame(padded, 2 * hop, hop)
  out = jnp.dot(blocks, jnp.asarray(matrix), precision=jax.lax.Precision.HIGHEST)
  return out.reshape(batch, n_blocks * made)[:, :n_out]
