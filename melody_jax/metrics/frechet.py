"""Frechet distance between two sets of embeddings (FAD), its limit for many clips, and per clip."""

from collections.abc import Sequence
import dataclasses

import numpy as np

_SMALLEST_SUBSET = 4  # clips; a spread that is estimated from fewer says nothing
_FEWEST_CLIPS = 8  # for a line through subsets of several sizes


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """The Gaussian fitted to a set of embeddings.

  Attributes:
    mean_D: Mean, float64 [D].
    root_RxD: A root of the covariance S, with root^T root = S: float64 [R, D], R <= D. It keeps
      the rank that the set has, so that few embeddings of many dimensions need no regularisation.
    count: Number of embeddings.
  """

  mean_D: np.ndarray
  root_RxD: np.ndarray
  count: int

  @property
  def is_deficient(self) -> bool:
    """Whether there are too few embeddings for a covariance of full rank: a FAD is then biased."""
    return self.count <= len(self.mean_D)


def fit_gaussian(embeddings_NxD: np.ndarray) -> Gaussian:
  """Mean and unbiased covariance of embeddings; the covariance of a single one is 0.

  Args:
    embeddings_NxD: Embeddings [N, D], N at least 1.

  Raises:
    ValueError: if there are none, or one is not finite.
  """
  x_NxD = np.asarray(embeddings_NxD, np.float64)
  if x_NxD.ndim != 2 or not x_NxD.size:
    raise ValueError(f"embeddings of shape {x_NxD.shape}: a Gaussian needs [N, D], N and D over 0")
  if not np.isfinite(x_NxD).all():
    raise ValueError("an embedding holds NaN or infinity")
  count, size = x_NxD.shape
  mean_D = x_NxD.mean(axis=0)
  root = (x_NxD - mean_D[None, :]) / np.sqrt(max(count - 1, 1))
  if count > size:
    # R of a QR decomposition is a root of D rows of the same covariance.
    root = np.linalg.qr(root, mode="r")
  return Gaussian(mean_D, root, count)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
  """Squared Frechet distance of two Gaussians (Kilgour et al. 2019, arXiv 1812.08466).

      d^2 = |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)

  With S = R^T R the last trace is the sum of the singular values of R_a R_b^T. That takes no root
  of a matrix that is nearly singular, which is where the usual formula loses its digits.

  Args:
    a: One Gaussian.
    b: Another one of as many dimensions.

  Returns:
    The distance, at least 0.

  Raises:
    ValueError: if their dimensions differ.
  """
  if a.mean_D.shape != b.mean_D.shape:
    raise ValueError(f"embeddings of {len(a.mean_D)} and of {len(b.mean_D)} dimensions")
  overlap = np.linalg.svd(a.root_RxD @ b.root_RxD.T, compute_uv=False).sum()
  spread = np.square(a.root_RxD).sum() + np.square(b.root_RxD).sum() - 2.0 * overlap
  # Rounding can leave -1e-12 of a distance that is 0.
  return float(max(np.square(a.mean_D - b.mean_D).sum() + spread, 0.0))


@dataclasses.dataclass(frozen=True)
class Extrapolation:
  """FAD against the number of clips, and its limit for infinitely many; see `fad_infinity`.

  Attributes:
    limit: FAD that the line reaches at 1 / n = 0. It may be negative where little is left of it.
    slope: What a FAD of n clips has too much, times n.
    r_squared: Share of the variance of the points that the line explains.
    counts: Numbers n of clips.
    values: FAD at each of them, the mean over the draws.
    deficient: Whether a subset has too few embeddings for a covariance of full rank: then the
      excess is not linear in 1 / n, and the limit is not to be trusted.
  """

  limit: float
  slope: float
  r_squared: float
  counts: tuple[int, ...]
  values: tuple[float, ...]
  deficient: bool


def fad_infinity(
  clips: Sequence[np.ndarray],
  reference: Gaussian,
  rng: np.random.Generator,
  points: int = 8,
  draws: int = 4,
) -> Extrapolation | None:
  """FAD of infinitely many clips (Chong & Forsyth 2020, arXiv 1911.07023; Gui et al. 2023).

  The FAD of n clips is too large by about c / n. It is measured on random subsets of several sizes
  and drawn on along a line in 1 / n. Subsets are of whole clips: embeddings of one clip are alike.

  Args:
    clips: Embeddings of each clip [windows, D]. Their order does not matter.
    reference: Gaussian of the reference, which stays as it is.
    rng: Source of the subsets.
    points: Number of sizes, from a quarter of the clips to all of them.
    draws: Subsets of each size.

  Returns:
    The line, or None for fewer than 8 clips.
  """
  total = len(clips)
  if total < _FEWEST_CLIPS:
    return None
  # By content: neither names nor the order of a directory may change a number.
  clips = sorted(clips, key=lambda clip: np.asarray(clip, np.float64).tobytes())
  smallest = max(_SMALLEST_SUBSET, total // 4)
  inverse = np.linspace(1.0 / smallest, 1.0 / total, points)
  counts = sorted({round(1.0 / x) for x in inverse})
  values, deficient = [], False
  for count in counts:
    found = []
    # All clips are one subset only.
    for _ in range(draws if count < total else 1):
      chosen = rng.permutation(total)[:count]
      gaussian = fit_gaussian(np.concatenate([clips[i] for i in chosen]))
      deficient |= gaussian.is_deficient
      found.append(frechet_distance(gaussian, reference))
    values.append(float(np.mean(found)))
  x = 1.0 / np.array(counts)
  slope, limit = np.polyfit(x, values, 1)
  left = float(np.square(np.array(values) - (limit + slope * x)).sum())
  around = float(np.square(np.array(values) - np.mean(values)).sum())
  r_squared = 1.0 - left / around if around > 0 else 1.0
  return Extrapolation(
    float(limit), float(slope), r_squared, tuple(counts), tuple(values), deficient
  )


def per_clip_fad(clips: Sequence[np.ndarray], reference: Gaussian) -> np.ndarray:
  """FAD of every clip alone against the reference (Gui et al. 2023, arXiv 2311.01616).

  It ranks clips: a clip's few windows never have the reference's spread, so that the number of a
  good clip is not near 0.

  Args:
    clips: Embeddings of each clip [windows, D].
    reference: Gaussian of the reference.

  Returns:
    float64 [clips].
  """
  return np.array([frechet_distance(fit_gaussian(clip), reference) for clip in clips])
