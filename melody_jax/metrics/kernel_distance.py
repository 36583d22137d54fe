"""Kernel distance between two sets of embeddings (KAD): unbiased, also for few clips."""

import numpy as np

SCALE = 100.0  # of the published figures (Chung et al. 2025), which would else be small fractions
_MEDIAN_ROWS = 2048  # rows whose distances are listed for a median: 17 MB
_CHUNK_ROWS = 1024  # rows of the kernel at a time, which bounds its memory


def median_distance(embeddings_NxD: np.ndarray) -> float:
  """Median of the distances between all pairs of embeddings: the kernel's bandwidth.

  Args:
    embeddings_NxD: Embeddings [N, D]. Of more than 2,048 an even selection is taken, in the order
      of their contents.

  Returns:
    The distance; 0 for fewer than two embeddings.
  """
  from scipy.spatial.distance import pdist

  x_NxD = np.asarray(embeddings_NxD, np.float64)
  if len(x_NxD) < 2:
    return 0.0
  if len(x_NxD) > _MEDIAN_ROWS:
    # By content, so that the order of files does not matter.
    x_NxD = x_NxD[np.lexsort(x_NxD.T)]
    x_NxD = x_NxD[np.linspace(0, len(x_NxD) - 1, _MEDIAN_ROWS).astype(int)]
  return float(np.median(pdist(x_NxD)))


def kernel_distance(
  generated_NxD: np.ndarray,
  reference_MxD: np.ndarray,
  generated_clips_N: np.ndarray | None = None,
  reference_clips_M: np.ndarray | None = None,
  bandwidth: float | None = None,
) -> float:
  """KAD: unbiased squared maximum mean discrepancy times 100 (Chung et al. 2025, arXiv 2502.15602).

      100 (mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j))
      k(x, y) = exp(-|x - y|^2 / (2 h^2))

  Its mean over draws is right for any number of clips, and is 0 for two sets of one kind. So a
  single value may be a little below 0, as it is for a set against itself.

  Args:
    generated_NxD: Embeddings x [N, D].
    reference_MxD: Embeddings y [M, D].
    generated_clips_N: Number of the clip that each x is from, int [N]. Pairs of one clip, which are
      no independent draws, are left out of the means. None: each is a clip of its own.
    reference_clips_M: The same for y, int [M].
    bandwidth: h; None: `median_distance` of the reference.

  Raises:
    ValueError: if a set has fewer than two clips, dimensions differ, or all of y are one point.
  """
  x_NxD, y_MxD = (np.asarray(e, np.float64) for e in (generated_NxD, reference_MxD))
  if x_NxD.ndim != 2 or y_MxD.ndim != 2 or x_NxD.shape[1] != y_MxD.shape[1]:
    raise ValueError(f"embeddings of shapes {x_NxD.shape} and {y_MxD.shape} do not compare")
  x_clips = np.arange(len(x_NxD)) if generated_clips_N is None else generated_clips_N
  y_clips = np.arange(len(y_MxD)) if reference_clips_M is None else reference_clips_M
  if min(len(np.unique(x_clips)), len(np.unique(y_clips))) < 2:
    raise ValueError("a kernel distance needs two clips in either set")
  width = median_distance(y_MxD) if bandwidth is None else bandwidth
  if not width > 0:
    raise ValueError("all embeddings of the reference are the same: its kernel has no width")
  within = _mean_kernel(x_NxD, x_NxD, width, x_clips, x_clips)
  within += _mean_kernel(y_MxD, y_MxD, width, y_clips, y_clips)
  return SCALE * (within - 2.0 * _mean_kernel(x_NxD, y_MxD, width))


def _mean_kernel(a_NxD, b_MxD, width, a_clips=None, b_clips=None) -> float:
  """Mean of the kernel over pairs of rows; with clips, over pairs of different clips."""
  from scipy.spatial.distance import cdist

  total, pairs = 0.0, 0
  for first in range(0, len(a_NxD), _CHUNK_ROWS):
    rows = slice(first, first + _CHUNK_ROWS)
    kernel = np.exp(cdist(a_NxD[rows], b_MxD, "sqeuclidean") / (-2.0 * width**2))
    if a_clips is None:
      total, pairs = total + kernel.sum(), pairs + kernel.size
      continue
    apart = np.asarray(a_clips)[rows, None] != np.asarray(b_clips)[None, :]
    total, pairs = total + kernel[apart].sum(), pairs + int(apart.sum())
  return float(total / pairs)
