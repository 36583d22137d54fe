"""Spectral front ends in JAX, shared by losses, MuLan and metrics.

Shape letters: B batch, T samples, F frames, N frequency bins, M mel bands.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def frame(x_BT: jax.Array, win_length: int, hop_length: int) -> jax.Array:
  """Cuts [B, T] into frames [B, 1 + (T - win_length) // hop_length, win_length].

  Where the window is a whole number of hops the frames are joined from shifted
  slices, which has a cheap gradient; otherwise they are gathered.
  """
  n_frames = 1 + (x_BT.shape[1] - win_length) // hop_length
  if win_length % hop_length == 0:
    per_window = win_length // hop_length
    blocks = x_BT[:, : (n_frames + per_window - 1) * hop_length]
    blocks = blocks.reshape(x_BT.shape[0], n_frames + per_window - 1, hop_length)
    return jnp.concatenate([blocks[:, i : i + n_frames] for i in range(per_window)], axis=-1)
  index = np.arange(n_frames)[:, None] * hop_length + np.arange(win_length)[None, :]
  return x_BT[:, index]


def stft_magnitude(
  x_BT: jax.Array,
  n_fft: int,
  hop_length: int,
  win_length: int | None = None,
  center: bool = True,
  power: bool = False,
) -> jax.Array:
  """Magnitude (or power) spectrogram [B, F, n_fft // 2 + 1] under a periodic Hann window.

  Args:
    x_BT: waveform.
    n_fft: FFT size, zero-padded from `win_length` (default n_fft).
    hop_length: samples between frames.
    center: pad by reflection so that frame i is centred on sample i * hop_length.
    power: return squared magnitudes.
  """
  win_length = win_length or n_fft
  if center:
    x_BT = jnp.pad(x_BT, ((0, 0), (win_length // 2, win_length // 2)), mode="reflect")
  window = jnp.asarray(np.hanning(win_length + 1)[:-1], jnp.float32)
  frames = frame(x_BT.astype(jnp.float32), win_length, hop_length) * window[None, None, :]
  spectrum = jnp.fft.rfft(frames, n=n_fft, axis=-1)
  squared = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  return squared if power else jnp.sqrt(squared + 1e-10)


@functools.lru_cache(maxsize=32)
def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float = 0.0) -> np.ndarray:
  """Slaney mel filters [n_fft // 2 + 1, n_mels] (librosa's)."""
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
  """Natural-log mel magnitudes [B, F, n_mels]; F = T // hop_length + 1 (centred frames)."""
  magnitude = stft_magnitude(audio_BxT, n_fft, hop_length, win_length)
  mel = jnp.dot(magnitude, jnp.asarray(mel_filters(sample_rate, n_fft, n_mels)))
  return jnp.log(jnp.maximum(mel, floor))
