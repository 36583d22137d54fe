"""K-means and residual vector quantisation, as pure functions on arrays.

There are two uses. A semantic token (docs/spec.md, section 4) is the nearest of 1,024 k-means
centres, fitted by mini-batches with new places for dead centres: `kmeans_init`, `kmeans_update`,
`kmeans_assign`. Style tokens (docs/spec.md, section 3) are 12 levels of residual k-means, fitted on
music embeddings: `fit_rvq`, `rvq_encode`, `rvq_report`.

Letters in names: N points, C features of a point, K centres, Q levels.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Points at a time: their distances to 1,024 centres take 16 MiB.
_CHUNK = 4096


class KMeansState(NamedTuple):
  """A k-means fit in progress.

  Attributes:
    centroids: Centres, float32 [K, C].
    counts: Points that each centre has collected, older ones decayed, float32 [K].
  """

  centroids: jax.Array
  counts: jax.Array


def squared_distances(points_NxC: jax.Array, centroids_KxC: jax.Array) -> jax.Array:
  """|x - c|^2 of every point to every centre: float32 [N, K], never negative."""
  points_NxC = points_NxC.astype(jnp.float32)
  # |x|^2 - 2 x c + |c|^2 is one matmul. It cancels for close points, hence the highest precision.
  dots_NxK = jnp.matmul(points_NxC, centroids_KxC.T, precision=jax.lax.Precision.HIGHEST)
  points_N = jnp.sum(jnp.square(points_NxC), axis=-1)
  centres_K = jnp.sum(jnp.square(centroids_KxC), axis=-1)
  return jnp.maximum(points_N[:, None] - 2.0 * dots_NxK + centres_K[None, :], 0.0)


def kmeans_assign(centroids: jax.Array, points: jax.Array) -> jax.Array:
  """Index of the nearest centre.

  Args:
    centroids: Centres, float32 [K, C].
    points: Points, [..., C].

  Returns:
    int32 [...]; ties go to the lowest index, so the answer is deterministic.
  """
  # |x|^2 is the same for every centre: it is left out of the comparison.
  centres_K = jnp.sum(jnp.square(centroids), axis=-1)
  # Highest precision: with the fewer bits of an accelerator's default, points near a border would
  # be other tokens there than on a CPU.
  dots = jnp.matmul(points.astype(jnp.float32), centroids.T, precision=jax.lax.Precision.HIGHEST)
  offsets = jnp.expand_dims(centres_K, tuple(range(dots.ndim - 1)))
  return jnp.argmin(offsets - 2.0 * dots, axis=-1).astype(jnp.int32)


def _draw_far_points(
  rng: jax.Array, points_NxC: jax.Array, distances_N: jax.Array, n: int
) -> jax.Array:
  """`n` points drawn with probability proportional to squared distance: [n, C].

  By inverse distribution function: `jax.random.categorical` would draw n x N numbers.
  """
  # The floor keeps the draw defined when every point coincides with a centre.
  cumulative_N = jnp.cumsum(jnp.maximum(distances_N, 1e-20))
  drawn_n = jax.random.uniform(rng, (n,)) * cumulative_N[-1]
  # Rounding may put a draw behind the last sum, hence the bound below.
  index_n = jnp.searchsorted(cumulative_N, drawn_n, side="right")
  return points_NxC[jnp.minimum(index_n, len(points_NxC) - 1)]


@functools.partial(jax.jit, static_argnames="n_centres")
def kmeans_init(rng: jax.Array, points: jax.Array, n_centres: int) -> KMeansState:
  """k-means++ seeding (Arthur and Vassilvitskii 2007) on a sample of the data.

  Args:
    rng: Random key.
    points: Points, [N, C]; a few times `n_centres` of them are enough.
    n_centres: Number of centres K.

  Returns:
    A state whose counts are zero: the first update forgets nothing.
  """
  points_NxC = points.astype(jnp.float32)
  n, features = points_NxC.shape
  first_rng, rest_rng = jax.random.split(rng)
  first_C = points_NxC[jax.random.randint(first_rng, (), 0, n)]
  centroids_KxC = jnp.zeros((n_centres, features), jnp.float32).at[0].set(first_C)

  def add_centre(k, carry):
    centroids_KxC, nearest_N = carry
    new_C = _draw_far_points(jax.random.fold_in(rest_rng, k), points_NxC, nearest_N, 1)[0]
    to_new_N = jnp.sum(jnp.square(points_NxC - new_C[None, :]), axis=-1)
    return centroids_KxC.at[k].set(new_C), jnp.minimum(nearest_N, to_new_N)

  nearest_N = jnp.sum(jnp.square(points_NxC - first_C[None, :]), axis=-1)
  centroids_KxC, _ = jax.lax.fori_loop(1, n_centres, add_centre, (centroids_KxC, nearest_N))
  return KMeansState(centroids_KxC, jnp.zeros((n_centres,), jnp.float32))


@jax.jit
def kmeans_update(
  state: KMeansState,
  points: jax.Array,
  rng: jax.Array,
  decay: float = 0.98,
  dead_share: float = 0.05,
) -> tuple[KMeansState, dict[str, jax.Array]]:
  """One mini-batch step: centres move to the decayed mean of the points they collect.

      counts' = decay counts + points taken now
      centre' = decayed mean of all points taken

  A centre is dead if its count is under `dead_share` of an equal share. It moves onto a point of
  this batch. The point is drawn in proportion to its squared distance from its centre, so it lies
  where the error is. The moved centre gets an equal share of ONE batch as its count: it must win
  points to stay, and it moves quickly towards them.

  Args:
    state: State, from `kmeans_init` or a previous update.
    points: Points, [N, C], N at least a few K.
    rng: Random key, for re-seeding only.
    decay: Weight of the past.
    dead_share: Fraction of an equal share of points under which a centre is dead.

  Returns:
    The new state, and a report of scalars: "distortion", the mean squared distance before the
    step; "used", the number of centres that took a point; "reseeded", the number moved.
  """
  points_NxC = points.astype(jnp.float32)
  n, n_centres = points_NxC.shape[0], state.centroids.shape[0]
  distances_NxK = squared_distances(points_NxC, state.centroids)
  nearest_N = jnp.argmin(distances_NxK, axis=-1)
  distance_N = jnp.min(distances_NxK, axis=-1)
  taken_K = jnp.zeros((n_centres,), jnp.float32).at[nearest_N].add(1.0)
  # A scatter: a product with one-hot vectors would be N x K x C.
  sums_KxC = jnp.zeros_like(state.centroids).at[nearest_N].add(points_NxC)

  # Means weighted by counts, so that a centre with few points learns faster than one with many.
  counts_K = decay * state.counts + taken_K
  weighted_KxC = (decay * state.counts)[:, None] * state.centroids + sums_KxC
  moved_KxC = weighted_KxC / jnp.maximum(counts_K, 1e-6)[:, None]
  # A centre that has never taken a point stays where it is, instead of at zero.
  centroids_KxC = jnp.where((counts_K > 1e-6)[:, None], moved_KxC, state.centroids)

  dead_K = counts_K < dead_share * jnp.mean(counts_K)
  # As many as there are centres, however many are dead: shapes are static.
  seeds_KxC = _draw_far_points(rng, points_NxC, distance_N, n_centres)
  centroids_KxC = jnp.where(dead_K[:, None], seeds_KxC, centroids_KxC)
  # One batch's share: at zero it would be dead again before it could win a point.
  counts_K = jnp.where(dead_K, n / n_centres, counts_K)
  report = {
    "distortion": jnp.mean(distance_N),
    "used": jnp.sum(taken_K > 0),
    "reseeded": jnp.sum(dead_K),
  }
  return KMeansState(centroids_KxC, counts_K), report


def _chunks(points: np.ndarray) -> tuple[jax.Array, jax.Array]:
  """Points padded to whole chunks [n_chunks, chunk, C] and weights (0 on padding)."""
  n, features = points.shape
  size = min(_CHUNK, n)
  n_chunks = -(-n // size)
  padded = np.zeros((n_chunks * size, features), np.float32)
  padded[:n] = points
  weights = (np.arange(n_chunks * size) < n).astype(np.float32)
  return (
    jnp.asarray(padded.reshape(n_chunks, size, features)),
    jnp.asarray(weights.reshape(n_chunks, size)),
  )


@jax.jit
def _lloyd_step(
  centroids_KxC: jax.Array, chunks: jax.Array, weights: jax.Array, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One full pass of Lloyd's algorithm; empty centres move onto far points.

  Returns the new centres and the mean squared distance to the old ones.
  """
  n_centres = centroids_KxC.shape[0]

  # All [N, K] distances at once could be gigabytes.
  def scan_chunk(carry, chunk):
    sums_KxC, counts_K = carry
    points_NxC, weights_N = chunk
    distances_NxK = squared_distances(points_NxC, centroids_KxC)
    nearest_N = jnp.argmin(distances_NxK, axis=-1)
    sums_KxC = sums_KxC.at[nearest_N].add(points_NxC * weights_N[:, None])
    counts_K = counts_K.at[nearest_N].add(weights_N)
    return (sums_KxC, counts_K), jnp.min(distances_NxK, axis=-1) * weights_N

  start = (jnp.zeros_like(centroids_KxC), jnp.zeros((n_centres,), jnp.float32))
  (sums_KxC, counts_K), distances = jax.lax.scan(scan_chunk, start, (chunks, weights))
  means_KxC = sums_KxC / jnp.maximum(counts_K, 1.0)[:, None]
  seeds_KxC = _draw_far_points(
    rng, chunks.reshape(-1, chunks.shape[-1]), distances.reshape(-1), n_centres
  )
  new_KxC = jnp.where((counts_K > 0)[:, None], means_KxC, seeds_KxC)
  return new_KxC, jnp.sum(distances) / jnp.sum(weights)


def fit_rvq(
  embeddings: np.ndarray,
  rng: jax.Array,
  n_levels: int = 12,
  n_centres: int = 1024,
  iterations: int = 12,
) -> tuple[np.ndarray, dict[str, Any]]:
  """Residual k-means: level q is fitted on what levels before q leave over.

  Args:
    embeddings: Unit vectors, float [N, C]; N should be several times `n_centres`.
    rng: Random key.
    n_levels: Number of levels Q.
    n_centres: Number of centres K.
    iterations: Passes of Lloyd's algorithm per level.

  Returns:
    Codebooks, float32 [Q, K, C], and the report of `rvq_report` on these embeddings.
  """
  # The residual is kept on the host; a device holds one level's chunks.
  residual = np.asarray(embeddings, np.float32)
  codebooks = []
  for level in range(n_levels):
    level_rng = jax.random.fold_in(rng, level)
    sample_rng, seed_rng, lloyd_rng = jax.random.split(level_rng, 3)
    # k-means++ reads all its points once for each centre, so it gets a sample.
    n_sample = min(len(residual), 8 * n_centres)
    sample = jax.random.choice(sample_rng, len(residual), (n_sample,), replace=False)
    centroids = kmeans_init(seed_rng, residual[np.asarray(sample)], n_centres).centroids
    chunks, weights = _chunks(residual)
    for i in range(iterations):
      centroids, _ = _lloyd_step(centroids, chunks, weights, jax.random.fold_in(lloyd_rng, i))
    # Chunk by chunk, for the memory's sake, as in the fit.
    chosen = jax.lax.map(functools.partial(kmeans_assign, centroids), chunks)
    codebook = np.asarray(centroids)
    residual = residual - codebook[np.asarray(chosen).reshape(-1)[: len(residual)]]
    codebooks.append(codebook)
  stacked = np.stack(codebooks)
  return stacked, rvq_report(stacked, embeddings)


def rvq_encode(codebooks: jax.Array, embeddings: jax.Array) -> jax.Array:
  """Style tokens of embeddings: greedy, level by level.

  Args:
    codebooks: Codebooks, float32 [Q, K, C].
    embeddings: Embeddings, [..., C].

  Returns:
    int32 [..., Q], each in [0, K).
  """

  # A scan: each level sees only what the levels before it left over.
  def encode_level(residual, codebook_KxC):
    tokens = kmeans_assign(codebook_KxC, residual)
    return residual - codebook_KxC[tokens], tokens

  start = jnp.asarray(embeddings, jnp.float32)
  _, tokens = jax.lax.scan(encode_level, start, jnp.asarray(codebooks, jnp.float32))
  return jnp.moveaxis(tokens, 0, -1)


def rvq_report(codebooks: np.ndarray, embeddings: np.ndarray) -> dict[str, Any]:
  """Fit of codebooks to embeddings, level by level.

  Args:
    codebooks: Codebooks, float32 [Q, K, C].
    embeddings: Embeddings, float [N, C].

  Returns:
    A report. "utilisation" holds Q fractions of centres used at least once;
    "reconstruction_cosine" Q mean cosines between embeddings and their decoding from levels up to
    and with this one; "squared_error" Q mean squared errors of the same; "embeddings" is N.
  """
  encode = jax.jit(rvq_encode)
  x = np.asarray(embeddings, np.float32)
  tokens = np.concatenate(
    [np.asarray(encode(codebooks, x[i : i + _CHUNK])) for i in range(0, len(x), _CHUNK)]
  )
  decoded = np.zeros_like(x)
  utilisation, cosines, errors = [], [], []
  for level, codebook in enumerate(np.asarray(codebooks, np.float32)):
    decoded = decoded + codebook[tokens[:, level]]
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(decoded, axis=-1)
    cosines.append(float(np.mean(np.sum(x * decoded, axis=-1) / np.maximum(norms, 1e-9))))
    errors.append(float(np.mean(np.sum(np.square(x - decoded), axis=-1))))
    utilisation.append(len(np.unique(tokens[:, level])) / len(codebook))
  return {
    "utilisation": utilisation,
    "reconstruction_cosine": cosines,
    "squared_error": errors,
    "embeddings": len(x),
  }
