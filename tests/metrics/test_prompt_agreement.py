"""Agreement with prompts: against direct formulas, at chance, and where it is perfect."""

import itertools

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from melody_jax.metrics.prompt_agreement import (
  area_under_curve,
  family_agreement,
  standardised_log,
  tag_agreement,
  tempo_agreement,
)

FAMILIES = ("a", "b", "c")


def _rng():
  return np.random.default_rng(0)


def test_log_posteriors_are_standardised_over_clips():
  posteriors = np.array([[0.1, 0.5, 0.0], [0.2, 0.5, 1e-3], [0.4, 0.5, 0.9]])
  found = standardised_log(posteriors)
  log = np.log(posteriors[:, 0])
  np.testing.assert_allclose(found[:, 0], (log - log.mean()) / log.std())
  assert not found[:, 1].any() and np.isfinite(found).all()


def test_the_right_family_is_the_largest_standardised_posterior():
  # "b" is likely in all clips: by its plain posterior it would always win.
  posteriors = np.array([[0.3, 0.90, 0.01], [0.1, 0.99, 0.01], [0.1, 0.90, 0.10]])
  found = family_agreement(posteriors, FAMILIES, FAMILIES, FAMILIES, _rng())
  assert found.right == 1.0 and found.by_family == {"a": 1.0, "b": 1.0, "c": 1.0}
  assert found.chance == pytest.approx(1 / 3)
  assert found.p_value == pytest.approx(1 / 6, abs=0.02)  # one of six orders of three prompts
  wrong = family_agreement(posteriors, FAMILIES, ("b", "c", "a"), FAMILIES, _rng())
  assert wrong.right == 0.0 and wrong.p_value == pytest.approx(1.0)


def test_clips_of_one_prompt_are_permuted_together():
  """Four clips of each of two prompts are two things to permute, not eight."""
  posteriors = np.repeat([[0.9, 0.1], [0.1, 0.9]], 4, axis=0)
  asked = ["a"] * 4 + ["b"] * 4
  found = family_agreement(posteriors, ("a", "b"), asked, asked, _rng())
  assert found.right == 1.0 and found.p_value == pytest.approx(0.5, abs=0.02)


def test_chance_is_the_mean_over_all_permutations():
  rng = np.random.default_rng(3)
  posteriors = rng.random((12, 3))
  prompts = np.repeat(["p", "q", "r", "s"], 3)
  family = dict(zip("pqrs", "aabc", strict=True))
  found = family_agreement(posteriors, FAMILIES, [family[p] for p in prompts], prompts, rng)
  heard = standardised_log(posteriors).argmax(axis=1)
  shares = []
  for order in itertools.permutations("pqrs"):
    moved = dict(zip("pqrs", order, strict=True))
    wanted = [FAMILIES.index(family[moved[p]]) for p in prompts]
    shares.append(np.mean(heard == wanted))
  assert found.chance == pytest.approx(np.mean(shares))


def test_area_is_mann_whitneys():
  rng = np.random.default_rng(1)
  high, low = rng.integers(0, 9, 20) + 2.0, rng.integers(0, 9, 15)
  u = mannwhitneyu(high, low).statistic
  assert area_under_curve(high, low) == pytest.approx(u / (20 * 15))
  with pytest.raises(ValueError, match="two sets"):
    area_under_curve(high, [])


def test_tags_that_are_asked_for_are_heard_more():
  rng = np.random.default_rng(2)
  prompts = np.repeat([f"p{i}" for i in range(12)], 4)
  asked = np.repeat(rng.random((12, 5)) < 0.4, 4, axis=0)
  asked[:, 3] = False  # a tag that nobody asks for
  heard = np.clip(0.2 + 0.3 * asked + 0.05 * rng.normal(size=asked.shape), 0.01, 0.99)
  found = tag_agreement(heard, tuple("vwxyz"), asked, prompts, rng, 500)
  assert found.auc > 0.99 and found.raised > 0.8 and found.p_value < 0.01
  assert "y" not in found.by_tag and found.prompts == 12
  noise = tag_agreement(rng.random(asked.shape), tuple("vwxyz"), asked, prompts, rng, 500)
  assert noise.auc == pytest.approx(0.5, abs=0.15) and noise.p_value > 0.01
  z = standardised_log(heard[:, [0, 1, 2, 4]])
  assert found.raised == pytest.approx(z[asked[:, [0, 1, 2, 4]]].mean())
  assert tag_agreement(heard, tuple("vwxyz"), np.ones_like(asked), prompts, rng) is None


def test_fast_prompts_have_more_onsets():
  prompts = ["f1", "f1", "f2", "s1", "s2", "s3", "s3"]
  rates = np.array([5.0, 6.0, 4.5, 2.0, 3.0, 1.0, 1.2])
  is_fast = np.array([p.startswith("f") for p in prompts])
  found = tempo_agreement(rates, is_fast, prompts, _rng())
  assert found.auc == 1.0 and found.fast == pytest.approx(15.5 / 3)
  assert found.p_value == pytest.approx(1 / 10)  # of ten ways to choose two of five prompts
  assert found.p_value_of_clips == pytest.approx(
    mannwhitneyu(rates[is_fast], rates[~is_fast], alternative="greater").pvalue
  )
  assert (found.clips, found.prompts) == ((4, 3), (3, 2))
  assert tempo_agreement(rates, ~is_fast, prompts, _rng()).auc == 0.0
  assert tempo_agreement(rates, np.ones(7, bool), prompts, _rng()) is None
