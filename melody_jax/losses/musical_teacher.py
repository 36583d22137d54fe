"""The sound of a frame, as targets for the tokeniser: log-mel bands and smoothed chroma.

MERT's idea (Li et al. 2023, arXiv 2306.00107): the hidden frames of a masked model are also asked
for musical features, so that what it learns, and what tokens keep, is harmony as well as timbre.
The two parts are scaled so that k-means centres on them explain both (choice).

Shape letters: B batch, S samples, T frames of 25 Hz, M mel bands.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.spectral import frame

N_MELS, N_CHROMA = 64, 12
SIZE = N_MELS + N_CHROMA
MEL_SCALE, CHROMA_SCALE = 1 / 16, 1.1

_N_FFT = 2048
_WINDOW_STD = 384  # samples of a Gaussian: 16 ms at 24 kHz
_FRAMES = 2  # spectra averaged to a frame
# Harmony, not the beating of partials: chroma is smoothed over five frames (0.2 s).
_SMOOTHING = (0.1, 0.2, 0.4, 0.2, 0.1)


@functools.lru_cache(maxsize=4)
def _filters(sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  import librosa

  mel = librosa.filters.mel(sr=sample_rate, n_fft=_N_FFT, n_mels=N_MELS)
  chroma = librosa.filters.chroma(sr=sample_rate, n_fft=_N_FFT)
  window = np.exp(-0.5 * ((np.arange(_N_FFT) - _N_FFT // 2) / _WINDOW_STD) ** 2)
  return mel.T.astype(np.float32), chroma.T.astype(np.float32), window.astype(np.float32)


def musical_targets(audio_BxS: jax.Array, sample_rate: int, hop: int) -> jax.Array:
  """Musical targets of every frame.

  Args:
    audio_BxS: Audio, float [B, S] in [-1, 1]; S a multiple of `hop`.
    sample_rate: Sample rate in Hz.
    hop: Samples of a frame, even.

  Returns:
    float32 [B, T, 76]: 64 log-mel bands, then 12 of chroma, each at its scale.
  """
  mel_filters, chroma_filters, window = _filters(sample_rate)
  step = hop // _FRAMES
  n = audio_BxS.shape[1] // step
  # The middle of a spectrum's window is the middle of the samples that it stands for.
  x = jnp.pad(audio_BxS.astype(jnp.float32), ((0, 0), ((_N_FFT - step) // 2, _N_FFT + step)))
  # Frames are cut at whole steps, which needs no gather, and shortened to the window.
  length = -(-_N_FFT // step) * step
  frames = frame(x, length, step)[:, :n, :_N_FFT]
  spectrum = jnp.fft.rfft(frames * window[None, None, :])
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  power = power.reshape(len(power), n // _FRAMES, _FRAMES, -1).mean(axis=2)
  mel = jnp.log(jnp.dot(power, jnp.asarray(mel_filters)) + 0.1)
  chroma = jnp.sqrt(jnp.dot(power, jnp.asarray(chroma_filters)))
  # What is nearly silent has no harmony: its chroma goes to zero instead of to noise.
  chroma = chroma / (jnp.linalg.norm(chroma, axis=-1, keepdims=True) + 2.0)
  t, reach = chroma.shape[1], len(_SMOOTHING) // 2
  padded = jnp.pad(chroma, ((0, 0), (reach, reach), (0, 0)))
  smooth = jnp.zeros_like(chroma)
  for i, weight in enumerate(_SMOOTHING):
    smooth = smooth + weight * padded[:, i : i + t]
  return jnp.concatenate([mel * MEL_SCALE, smooth * CHROMA_SCALE], axis=-1)
