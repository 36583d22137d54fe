"""MCC, diversity and nearest neighbours by hand."""

import numpy as np
import pytest

from melody_jax.metrics.embeddings import mean_pairwise_distance, mulan_cycle_consistency, nearest


def test_mcc_is_the_cosine_of_each_pair():
  prompts = np.array([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
  music = np.array([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
  np.testing.assert_allclose(
    mulan_cycle_consistency(prompts, music), [1.0, -1.0, np.sqrt(0.5)], rtol=1e-12
  )
  with pytest.raises(ValueError, match="3, 2"):
    mulan_cycle_consistency(prompts, music[:2])
  with pytest.raises(ValueError, match="no direction"):
    mulan_cycle_consistency(prompts, 0 * music)


def test_diversity_is_the_mean_over_pairs():
  x = np.random.default_rng(0).normal(size=(6, 4))
  u = x / np.linalg.norm(x, axis=1, keepdims=True)
  pairs = [1 - u[i] @ u[j] for i in range(6) for j in range(i)]
  assert mean_pairwise_distance(x) == pytest.approx(np.mean(pairs))
  assert mean_pairwise_distance(np.ones((4, 3))) == pytest.approx(0.0, abs=1e-12)
  assert np.isnan(mean_pairwise_distance(x[:1]))


def test_nearest_by_cosine():
  others = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
  index, cosine = nearest(np.array([[0.1, 5.0], [-7.0, 0.0]]), others)
  np.testing.assert_array_equal(index, [1, 2])
  np.testing.assert_allclose(cosine, [0.9998, 1.0], atol=1e-4)
