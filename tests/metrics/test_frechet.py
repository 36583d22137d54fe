"""FAD: the published function, identical sets, noise, order, and fewer clips than dimensions."""

import ast
import importlib.util
import pathlib

import numpy as np
import pytest

from melody_jax.metrics.frechet import fad_infinity, fit_gaussian, frechet_distance, per_clip_fad


def _set(count, size=16, seed=0, shift=0.0):
  rng = np.random.default_rng(seed)
  mixing = np.random.default_rng(99).normal(size=(size, size)) / np.sqrt(size)
  return rng.normal(size=(count, size)) @ mixing + shift


def _fad(a, b):
  return frechet_distance(fit_gaussian(a), fit_gaussian(b))


def test_one_dimension_by_hand():
  a, b = np.array([[0.0], [2.0]]), np.array([[5.0], [11.0]])
  # Means 1 and 8; standard deviations sqrt(2) and sqrt(18): 49 + (sqrt(2) - sqrt(18))^2 = 57.
  assert _fad(a, b) == pytest.approx(57.0)


@pytest.mark.parametrize("count", (200, 10))
def test_equals_the_formula_with_a_matrix_root(count):
  from scipy.linalg import sqrtm

  a, b = _set(count), _set(count + 3, seed=1, shift=0.3)
  covariances = [np.cov(x, rowvar=False) for x in (a, b)]
  # Not quite singular: the root of a singular product has few right digits.
  root = sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(16)).real
  expected = np.square(a.mean(0) - b.mean(0)).sum()
  expected += np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)
  assert _fad(a, b) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parity
@pytest.mark.parametrize("count, size", ((500, 32), (128, 128), (40, 128)))
def test_equals_the_package(count, size):
  """The distance function of frechet-audio-distance, taken out of its source.

  Its module imports torch, laion_clap and encodec at its top, of which the function needs none.
  """
  found = importlib.util.find_spec("frechet_audio_distance")
  if found is None:
    pytest.skip("needs pip install --no-deps frechet-audio-distance")
  import scipy.linalg

  source = pathlib.Path(found.submodule_search_locations[0], "fad.py").read_text()
  names = ("calculate_embd_statistics", "calculate_frechet_distance")
  functions = [n for n in ast.walk(ast.parse(source)) if getattr(n, "name", "") in names]

  class Linalg:
    """Newer SciPy has no `disp`: without it sqrtm returns the root alone."""

    @staticmethod
    def sqrtm(matrix, disp=True):
      root = scipy.linalg.sqrtm(matrix)
      return root if disp else (root, None)

  scope = {"np": np, "linalg": Linalg}
  exec(compile(ast.Module(functions, []), "fad.py", "exec"), scope)
  a, b = _set(count, size), _set(count + 7, size, seed=1, shift=0.2)
  statistics = [s for x in (a, b) for s in scope["calculate_embd_statistics"](None, x)]
  expected = scope["calculate_frechet_distance"](None, *statistics)
  assert _fad(a, b) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("count", (200, 5, 1))
def test_identical_sets_have_no_distance(count):
  assert _fad(_set(count), _set(count)) < 1e-10


def test_rises_with_noise():
  clean, rng = _set(400), np.random.default_rng(3)
  levels = (0.0, 0.1, 0.3, 1.0, 3.0)
  noise = rng.normal(size=clean.shape)
  values = [_fad(clean + level * noise, _set(400, seed=1)) for level in levels]
  assert values == sorted(values) and values[-1] > 10 * values[0]


def test_order_does_not_matter():
  clips = [_set(4, seed=i) for i in range(20)]
  reference = fit_gaussian(_set(400, seed=50))
  other = [clips[i] for i in np.random.default_rng(0).permutation(20)]
  results = [
    (
      frechet_distance(fit_gaussian(np.concatenate(c)), reference),
      fad_infinity(c, reference, np.random.default_rng(7)).limit,
    )
    for c in (clips, other)
  ]
  assert results[0] == pytest.approx(results[1], rel=1e-9)


def test_few_clips_are_handled_and_flagged():
  few, many = fit_gaussian(_set(10)), fit_gaussian(_set(400, seed=1))
  assert few.is_deficient and not many.is_deficient
  assert fit_gaussian(_set(16)).is_deficient and not fit_gaussian(_set(17)).is_deficient
  # Too few draws make a distance too large, never too small.
  assert frechet_distance(few, many) > 3 * _fad(_set(400), _set(400, seed=1))
  assert fad_infinity([_set(4)] * 7, many, np.random.default_rng(0)) is None
  assert fad_infinity(
    [_set(1, seed=i) for i in range(12)], many, np.random.default_rng(0)
  ).deficient


def test_the_limit_is_nearer_to_the_truth_than_any_number_of_clips():
  reference = fit_gaussian(_set(20_000, seed=1))
  clips = list(_set(300)[:, None, :])
  line = fad_infinity(clips, reference, np.random.default_rng(0), draws=8)
  assert line.counts[0] == 75 and line.counts[-1] == 300 and line.slope > 0
  # Both sets are of one kind: the truth is 0.
  assert abs(line.limit) < 0.3 * line.values[-1] and line.r_squared > 0.9 and not line.deficient


def test_per_clip_scores_rank_the_odd_one_last():
  clips = [_set(6, seed=i, shift=4.0 * (i == 3)) for i in range(5)]
  scores = per_clip_fad(clips, fit_gaussian(_set(400, seed=50)))
  assert scores.shape == (5,) and scores.argmax() == 3
  whole = frechet_distance(fit_gaussian(clips[2]), fit_gaussian(_set(400, seed=50)))
  assert scores[2] == pytest.approx(whole)


@pytest.mark.parametrize("bad", (np.zeros((0, 3)), np.zeros(3), np.array([[np.nan, 1.0]])))
def test_what_is_no_set_is_refused(bad):
  with pytest.raises(ValueError, match="embedding"):
    fit_gaussian(bad)


def test_dimensions_must_agree():
  with pytest.raises(ValueError, match="16 and of 8 dimensions"):
    _fad(_set(30), _set(30, 8))
