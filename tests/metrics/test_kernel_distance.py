"""KAD against its formula in loops, without bias for few clips, in any order."""

import numpy as np
import pytest

from melody_jax.metrics import kernel_distance as module
from melody_jax.metrics.kernel_distance import kernel_distance, median_distance


def _direct(x, y, width):
  def k(a, b):
    return np.exp(-np.square(a - b).sum() / (2 * width**2))

  def within(z):
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
    return np.mean([k(z[i], z[j]) for i, j in pairs])

  across = np.mean([k(a, b) for a in x for b in y])
  return 100 * (within(x) + within(y) - 2 * across)


def _sets(n=9, m=7, size=5, shift=0.4, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, size)) + shift, rng.normal(size=(m, size))


def test_equals_the_direct_formula(monkeypatch):
  x, y = _sets()
  distances = [np.linalg.norm(y[i] - y[j]) for i in range(7) for j in range(i)]
  assert median_distance(y) == pytest.approx(np.median(distances))
  expected = _direct(x, y, np.median(distances))
  assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
  monkeypatch.setattr(module, "_CHUNK_ROWS", 4)
  assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
  assert kernel_distance(x, y, bandwidth=2.0) == pytest.approx(_direct(x, y, 2.0), rel=1e-12)


def test_has_no_bias_for_few_clips():
  values = [kernel_distance(*_sets(4, 5, shift=0, seed=s), bandwidth=2.0) for s in range(400)]
  # Several standard errors around 0.
  assert abs(np.mean(values)) < 4 * np.std(values) / 20
  assert min(values) < 0


def test_windows_of_one_clip_are_no_independent_draws():
  rng = np.random.default_rng(0)

  def clips(n):
    centres = rng.normal(size=(n, 5))
    return np.repeat(centres, 6, axis=0) + 0.1 * rng.normal(size=(6 * n, 5)), np.arange(6 * n) // 6

  known, ignored = [], []
  for _ in range(100):
    (x, xc), (y, yc) = clips(5), clips(5)
    known.append(kernel_distance(x, y, xc, yc, bandwidth=2.0))
    ignored.append(kernel_distance(x, y, bandwidth=2.0))
  assert abs(np.mean(known)) < 4 * np.std(known) / 10 < np.mean(ignored)


def test_rises_with_noise_in_any_order():
  x, y = _sets(80, 60, shift=0)
  noise = np.random.default_rng(1).normal(size=x.shape)
  values = [kernel_distance(x + level * noise, y) for level in (0, 0.5, 1, 2, 4)]
  assert values == sorted(values)
  assert kernel_distance(x[::-1] + 0.0, y[::-1]) == pytest.approx(kernel_distance(x, y), abs=1e-9)


def test_the_width_of_many_rows_does_not_depend_on_their_order(monkeypatch):
  monkeypatch.setattr(module, "_MEDIAN_ROWS", 16)
  _, y = _sets(m=200)
  assert median_distance(y) == median_distance(y[::-1])


def test_what_cannot_be_measured_is_said():
  x, y = _sets()
  with pytest.raises(ValueError, match="two clips in either set"):
    kernel_distance(x[:1], y)
  with pytest.raises(ValueError, match="two clips in either set"):
    kernel_distance(x, y, np.zeros(9, int))
  with pytest.raises(ValueError, match="no width"):
    kernel_distance(x, np.ones((3, 5)))
  with pytest.raises(ValueError, match="do not compare"):
    kernel_distance(x, y[:, :2])
