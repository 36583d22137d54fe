"""Musical features of a frame: log-mel bands and smoothed chroma.

They are the targets of the tokeniser's musical teacher, and may be mixed into what tokens are made
of. The idea is MERT's (Li et al. 2023, arXiv 2306.00107): a masked model must also predict musical
features of its hidden frames, so that it learns, and the tokens keep, harmony as well as timbre.
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
_WINDOW_STD = 384  # standard deviation of a Gaussian window in samples: 16 ms at 24 kHz
_FRAMES = 2  # spectra whose mean is a frame
# Chroma is smoothed over five frames (0.2 s), to keep the harmony and not the beating of partials.
_SMOOTHING = (0.1, 0.2, 0.4, 0.2, 0.1)


@functools.lru_cache(maxsize=4)
def _filters(sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  import librosa

  mel = librosa.filters.mel(sr=sample_rate, n_fft=_N_FFT, n_mels=N_MELS)
  chroma = librosa.filters.chroma(sr=sample_rate, n_fft=_N_FFT)
  window = np.exp(-0.5 * ((np.arange(_N_FFT) - _N_FFT // 2) / _WINDOW_STD) ** 2)
  return mel.T.astype(np.float32), chroma.T.astype(np.float32), window.astype(np.float32)


def musical_features(
  audio_BxS: jax.Array, sample_rate: int, hop: int, lengths_B: jax.Array | None = None
) -> jax.Array:
  """Computes the features of every frame.

  Args:
    audio_BxS: Waveforms in [-1, 1], float [B, S]. S is a multiple of `hop`.
    sample_rate: Sample rate in Hz.
    hop: Samples of a frame, an even number.
    lengths_B: Valid frames of each row, int32; what lies beyond is taken for silence. None: all.

  Returns:
    float32 [B, T, 76]: 64 log-mel bands, then 12 chroma bands, each part at its scale.
  """
  frames = audio_BxS.shape[1] // hop
  valid_BxT = None
  if lengths_B is not None:
    valid_BxT = jnp.arange(frames)[None, :] < lengths_B[:, None]
    audio_BxS = jnp.where(jnp.repeat(valid_BxT, hop, axis=1), audio_BxS, 0.0)
  mel_filters, chroma_filters, window = _filters(sample_rate)
  step = hop // _FRAMES
  n = audio_BxS.shape[1] // step
  # Padded so that the middle of each window is the middle of the samples it stands for.
  x = jnp.pad(audio_BxS.astype(jnp.float32), ((0, 0), ((_N_FFT - step) // 2, _N_FFT + step)))
  # Frames are cut at whole steps, which needs no gather, and then shortened to the window.
  length = -(-_N_FFT // step) * step
  windows = frame(x, length, step)[:, :n, :_N_FFT]
  spectrum = jnp.fft.rfft(windows * window[None, None, :])
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  power = power.reshape(len(power), n // _FRAMES, _FRAMES, -1).mean(axis=2)
  # The floor keeps silence, where the logarithm is steep, from ruling the error.
  mel = jnp.log(jnp.dot(power, jnp.asarray(mel_filters)) + 0.1)
  # Magnitudes: in power one loud partial would be all of the harmony.
  chroma = jnp.sqrt(jnp.dot(power, jnp.asarray(chroma_filters)))
  # A nearly silent frame has no harmony. The added 2 moves its chroma to zero instead of to noise.
  chroma = chroma / (jnp.linalg.norm(chroma, axis=-1, keepdims=True) + 2.0)
  if valid_BxT is not None:
    # The last windows reach past the end; smoothing would carry that back into the clip.
    chroma = jnp.where(valid_BxT[:, :, None], chroma, 0.0)
  t, reach = chroma.shape[1], len(_SMOOTHING) // 2
  padded = jnp.pad(chroma, ((0, 0), (reach, reach), (0, 0)))
  smooth = jnp.zeros_like(chroma)
  for i, weight in enumerate(_SMOOTHING):
    smooth = smooth + weight * padded[:, i : i + t]
  return jnp.concatenate([mel * MEL_SCALE, smooth * CHROMA_SCALE], axis=-1)
