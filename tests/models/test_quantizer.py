"""K-means against brute force; properties of residual quantisation."""

import jax
import numpy as np
import pytest

from melody_jax.models import quantizer


@pytest.fixture(scope="module")
def blobs():
  """600 points in 8 tight clusters, and the clusters' centres."""
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(8, 6)).astype(np.float32) * 5
  which = rng.integers(0, 8, 600)
  return centres[which] + 0.05 * rng.normal(size=(600, 6)).astype(np.float32), centres


@pytest.fixture(scope="module")
def fitted():
  rng = np.random.default_rng(1)
  basis = rng.normal(size=(4, 16)).astype(np.float32)
  x = rng.normal(size=(800, 4)).astype(np.float32) @ basis
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  codebooks, report = quantizer.fit_rvq(
    x, jax.random.key(0), n_levels=4, n_centres=16, iterations=6
  )
  return x, codebooks, report


def test_assignment_is_the_brute_force_nearest_centre():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(3, 40, 5)).astype(np.float32)
  centres = rng.normal(size=(11, 5)).astype(np.float32)
  expected = np.argmin(((points[:, :, None] - centres[None, None]) ** 2).sum(-1), axis=-1)
  np.testing.assert_array_equal(quantizer.kmeans_assign(centres, points), expected)


def test_assignment_of_a_point_does_not_depend_on_its_company():
  rng = np.random.default_rng(0)
  points, centres = rng.normal(size=(50, 8)), rng.normal(size=(32, 8)).astype(np.float32)
  together = np.asarray(quantizer.kmeans_assign(centres, points.astype(np.float32)))
  alone = np.asarray(quantizer.kmeans_assign(centres, points[7:8].astype(np.float32)))
  assert together[7] == alone[0]


def test_squared_distances_match_brute_force():
  rng = np.random.default_rng(0)
  x, c = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
  expected = ((x[:, None] - c[None]) ** 2).sum(-1)
  np.testing.assert_allclose(quantizer.squared_distances(x, c), expected, atol=1e-5)


def test_minibatches_find_the_clusters(blobs):
  points, centres = blobs
  state = quantizer.kmeans_init(jax.random.key(0), points, 8)
  for i in range(12):
    batch = points[(i % 3) * 200 : (i % 3 + 1) * 200]
    state, report = quantizer.kmeans_update(state, batch, jax.random.key(i))
  nearest = np.sqrt(np.asarray(quantizer.squared_distances(centres, state.centroids))).min(axis=1)
  assert nearest.max() < 0.1
  assert float(report["distortion"]) < 0.05


def test_first_update_is_the_mean_of_the_points_taken(blobs):
  points, _ = blobs
  state = quantizer.kmeans_init(jax.random.key(0), points, 8)
  new, _ = quantizer.kmeans_update(state, points, jax.random.key(1), dead_share=0.0)
  taken = np.asarray(quantizer.kmeans_assign(state.centroids, points))
  for k in range(8):
    expected = points[taken == k].mean(axis=0)
    np.testing.assert_allclose(new.centroids[k], expected, atol=1e-4)


def test_dead_centres_move_onto_points(blobs):
  points, _ = blobs
  centroids = np.concatenate([points[:6], np.full((2, 6), 1e3)]).astype(np.float32)
  state = quantizer.KMeansState(centroids, np.full(8, 75.0, np.float32))
  reseeded = 0
  for i in range(4):
    state, report = quantizer.kmeans_update(state, points, jax.random.key(i), decay=0.1)
    reseeded += int(report["reseeded"])
  assert reseeded >= 2
  assert np.abs(np.asarray(state.centroids)).max() < 1e2
  assert np.bincount(quantizer.kmeans_assign(state.centroids, points), minlength=8).min() > 0


def test_more_centres_than_points_stays_finite():
  points = np.eye(3, dtype=np.float32)
  state = quantizer.kmeans_init(jax.random.key(0), points, 8)
  state, _ = quantizer.kmeans_update(state, points, jax.random.key(1))
  assert np.isfinite(np.asarray(state.centroids)).all()


def test_error_falls_level_by_level(fitted):
  _, codebooks, report = fitted
  assert codebooks.shape == (4, 16, 16) and codebooks.dtype == np.float32
  assert np.all(np.diff(report["squared_error"]) < 0)
  assert np.all(np.diff(report["reconstruction_cosine"]) > 0)
  assert report["reconstruction_cosine"][-1] > 0.97
  assert min(report["utilisation"]) > 0.9


def decode(codebooks, tokens):
  """Sums of the chosen centres, as many levels as there are tokens."""
  return sum(codebooks[level][tokens[..., level]] for level in range(tokens.shape[-1]))


def test_decode_inverts_encode_up_to_the_reported_error(fitted):
  x, codebooks, report = fitted
  tokens = quantizer.rvq_encode(codebooks, x.reshape(8, 100, 16))
  assert tokens.shape == (8, 100, 4) and tokens.dtype == np.int32
  decoded = decode(codebooks, np.asarray(tokens)).reshape(800, 16)
  error = ((x - decoded) ** 2).sum(axis=1).mean()
  np.testing.assert_allclose(error, report["squared_error"][-1], rtol=1e-4)


def test_fewer_levels_decode_coarsely(fitted):
  x, codebooks, report = fitted
  tokens = quantizer.rvq_encode(codebooks, x)
  coarse = decode(codebooks, np.asarray(tokens)[:, :2])
  np.testing.assert_allclose(
    ((x - coarse) ** 2).sum(axis=1).mean(), report["squared_error"][1], rtol=1e-4
  )


def test_same_key_same_codebooks(fitted):
  x, codebooks, _ = fitted
  again, _ = quantizer.fit_rvq(x, jax.random.key(0), n_levels=4, n_centres=16, iterations=6)
  np.testing.assert_array_equal(codebooks, again)
