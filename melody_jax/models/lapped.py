"""Lapped transform of audio, split into gains and shapes, as pure functions.

The codec stores how loud a band is (its gain) apart from the pattern inside it (its shape), as
transform codecs do (Valin et al., "The Opus codec", AES 2013). Levels, rhythm and spectral envelope
then have channels of their own, which vary slowly. A pattern that a model gets wrong still sounds
at the right level.

Shape letters: B batch, L frames, F bins of the transform (= hop), G bands, W window.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

# White noise at -70 dB of full scale, for one bin of an orthonormal transform. Quieter sound has no
# pattern worth keeping.
RMS_FLOOR = 3e-4
# log(rms) of music lies between log(RMS_FLOOR) = -8 and 1. These make it about N(0, 1).
GAIN_CENTER, GAIN_SCALE = -4.0, 2.0
MAX_LOG_GAIN = 3.5  # twice full scale in one bin


def mdct_basis(bins: int) -> np.ndarray:
  """Orthonormal analysis basis of an MDCT with a sine window (Princen & Bradley, 1986).

  To invert it exactly, overlap-add the frames `coefficients @ basis.T` at hop `bins`.

  Args:
    bins: Bins of the transform, which is also its hop in samples.

  Returns:
    float32 [2 * bins, bins].
  """
  n = np.arange(2 * bins)[:, None]
  k = np.arange(bins)[None, :]
  window = np.sin(np.pi * (n + 0.5) / (2 * bins))
  basis = window * np.sqrt(2 / bins) * np.cos(np.pi / bins * (n + 0.5 + bins / 2) * (k + 0.5))
  return basis.astype(np.float32)


def overlap_add(frames_BLW: jax.Array, hop: int) -> jax.Array:
  """Sum of frames of width 2 * hop at spacing hop: [B, L, 2 hop] -> [B, (L + 1) hop]."""
  # A frame overlaps only its neighbours, so two shifted halves do; no scatter is needed.
  first, second = jnp.split(frames_BLW, 2, axis=-1)
  first = jnp.pad(first, ((0, 0), (0, 1), (0, 0)))
  second = jnp.pad(second, ((0, 0), (1, 0), (0, 0)))
  return (first + second).reshape(frames_BLW.shape[0], -1)


def band_matrix(edges: tuple[int, ...]) -> np.ndarray:
  """Means over bands: float32 [F, G]; band g holds bins edges[g] to edges[g + 1] - 1.

  Raises:
    ValueError: Edges do not rise from 0.
  """
  if len(edges) < 2 or edges[0] != 0 or any(b <= a for a, b in pairwise(edges)):
    raise ValueError(f"band edges {edges} must rise from 0")
  matrix = np.zeros((edges[-1], len(edges) - 1), np.float32)
  for g, (low, high) in enumerate(pairwise(edges)):
    matrix[low:high, g] = 1.0 / (high - low)
  return matrix


def spread(bands_BLG: jax.Array, edges: tuple[int, ...]) -> jax.Array:
  """The value of its band for every bin: [B, L, G] -> [B, L, F]."""
  matrix = (band_matrix(edges) > 0).astype(np.float32)
  return jnp.dot(bands_BLG, jnp.asarray(matrix.T, bands_BLG.dtype))


def split_gains(bins_BLF: jax.Array, edges: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """Splits the bins of a transform into normalised log-gains and shapes.

      gain  = (log(rms of the band + RMS_FLOOR) - GAIN_CENTER) / GAIN_SCALE
      shape = bins / (rms of the band + RMS_FLOOR)

  The power of a bin is half of X_k^2 + (X_{k+1} - X_{k-1})^2, which hardly depends on phase (Daudet
  & Sandler, 2004). It is smoothed over three frames by 1/4, 1/2, 1/4. |shape| then stays under
  2 sqrt(bins of the band).

  Args:
    bins_BLF: Bins, float [B, L, F].
    edges: First bin of each band, and F at the end.

  Returns:
    (gains [B, L, G], shapes [B, L, F]).
  """
  padded = jnp.pad(bins_BLF, ((0, 0), (0, 0), (1, 1)))
  power = 0.5 * (jnp.square(bins_BLF) + jnp.square(padded[..., 2:] - padded[..., :-2]))
  bands = jnp.dot(power, jnp.asarray(band_matrix(edges), power.dtype))
  # Gains vary slowly so, and a frame that is loud alone keeps a bounded shape.
  around = jnp.pad(bands, ((0, 0), (1, 1), (0, 0)))
  bands = 0.25 * around[:, :-2] + 0.5 * bands + 0.25 * around[:, 2:]
  rms = jnp.sqrt(bands + 0.01 * RMS_FLOOR**2) + RMS_FLOOR  # the root has no gradient at zero
  return (jnp.log(rms) - GAIN_CENTER) / GAIN_SCALE, bins_BLF / spread(rms, edges)


def join_gains(gains_BLG: jax.Array, shapes_BLF: jax.Array, edges: tuple[int, ...]) -> jax.Array:
  """Inverse of `split_gains`.

  Args:
    gains_BLG: Normalised log-gains, float [B, L, G]. They are limited, so that no bin overflows.
    shapes_BLF: Shapes, float [B, L, F].
    edges: First bin of each band, and F at the end.

  Returns:
    Bins, float [B, L, F].
  """
  # A limit, because a wrong gain is worse than a wrong shape: its error is exponential.
  log_rms = jnp.minimum(gains_BLG * GAIN_SCALE + GAIN_CENTER, MAX_LOG_GAIN)
  return shapes_BLF * jnp.exp(spread(log_rms, edges))
