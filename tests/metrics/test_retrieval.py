"""Retrieval scores against enumeration and simulation of their chance levels."""

import itertools

import numpy as np
import pytest

from melody_jax.metrics.retrieval import _miss_probability, rank_test, ranks_of_classes, recall_at_k


def _groups(sizes):
  labels = np.repeat(np.arange(len(sizes)), sizes)
  return labels[:, None] == labels[None, :]


def test_perfect_and_worst_order():
  relevant = np.eye(20, dtype=bool)
  best = recall_at_k(np.where(relevant, 1.0, -1.0), relevant, 5)
  assert (best.recall, best.hit_rate, best.recall_best) == (1.0, 1.0, 1.0)
  assert best.over_chance == pytest.approx(20 / 5)
  worst = recall_at_k(-np.where(relevant, 1.0, -1.0) + 1e-3 * np.arange(20)[None, :], relevant, 5)
  assert (worst.recall, worst.hit_rate) == (0.0, 0.0)


def test_constant_similarity_scores_exactly_chance():
  relevant = _groups([1, 3, 8])
  scores = recall_at_k(np.zeros((12, 12)), relevant, 4)
  assert scores.recall == pytest.approx(scores.recall_chance)
  assert scores.hit_rate == pytest.approx(scores.hit_rate_chance)


def test_random_order_reaches_the_stated_chance_with_shared_captions():
  rng = np.random.default_rng(0)
  relevant = _groups([1, 2, 7, 10, 20])
  runs = [recall_at_k(rng.normal(size=(40, 40)), relevant, 6) for _ in range(400)]
  assert np.mean([r.recall for r in runs]) == pytest.approx(6 / 40, abs=0.005)
  assert np.mean([r.hit_rate for r in runs]) == pytest.approx(runs[0].hit_rate_chance, abs=0.005)


def test_best_recall_is_capped_where_more_than_k_are_relevant():
  relevant = _groups([20])
  assert recall_at_k(np.zeros((20, 20)), relevant, 5).recall_best == pytest.approx(0.25)


def test_miss_probability_equals_enumeration():
  n, r, k = 7, 3, 2
  draws = list(itertools.combinations(range(n), k))
  misses = sum(not any(i < r for i in draw) for draw in draws)
  assert _miss_probability(n, r, k) == pytest.approx(misses / len(draws))
  assert _miss_probability(5, 4, 2) == 0.0


def test_queries_without_an_answer_are_refused():
  with pytest.raises(ValueError, match="query 1"):
    recall_at_k(np.zeros((2, 3)), np.array([[True, False, False], [False] * 3]), 1)
  with pytest.raises(ValueError, match="k=4"):
    recall_at_k(np.zeros((2, 3)), np.ones((2, 3), bool), 4)


def test_ranks_share_ties():
  ranks = ranks_of_classes(np.array([[3.0, 1.0, 3.0, 0.0]]))
  np.testing.assert_allclose(ranks, [[1.5, 3.0, 1.5, 4.0]])


def test_rank_test_finds_a_signal_and_its_absence():
  rng = np.random.default_rng(1)
  labels = np.repeat(np.arange(20), 3)
  noise = rng.normal(size=(60, 20))
  signal = noise + 3.0 * (labels[:, None] == np.arange(20)[None, :])
  strong = rank_test(signal, labels, rng, n_permutations=500)
  assert strong.p_value == pytest.approx(1 / 501)
  assert strong.mean_rank < 3 and strong.margin > 0.7 and strong.top[1][0] > strong.top[1][1]
  p = [
    rank_test(rng.normal(size=(60, 20)), labels, rng, n_permutations=200).p_value for _ in range(40)
  ]
  assert 0.3 < np.mean(p) < 0.7


def test_rank_test_does_not_count_seeds_as_independent():
  # One lucky assignment repeated for every seed: strong per item, weak per prompt.
  rng = np.random.default_rng(2)
  scores = np.repeat(rng.normal(size=(3, 3)) + np.eye(3) * 10, 50, axis=0)
  test = rank_test(scores, np.repeat(np.arange(3), 50), rng, n_permutations=2_000)
  assert test.mean_rank == 1.0
  assert test.p_value == pytest.approx(1 / 6, abs=0.04)


def test_chance_levels():
  test = rank_test(np.zeros((4, 4)), np.arange(4), np.random.default_rng(0), n_permutations=10)
  assert test.mean_rank == test.mean_rank_chance == 2.5
  assert test.mrr_chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
  assert test.margin == 0.0 and test.p_value == 1.0
