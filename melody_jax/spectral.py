"""Spectrograms in JAX, shared by losses, MuLan and metrics.

Shape letters: B batch, T samples, F frames, N frequency bins, M mel bands.
"""

import functools

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
