"""Chroma cross-correlation: against loops, copies at a shift, and pieces that only share a key."""

import numpy as np
import pytest

from melody_jax.metrics.chroma import SAMPLE_RATE, chroma, chroma_correlation, nearest_by_chroma


def _direct(q, o):
  best = -1.0
  for shift in range(1 - q.shape[1], o.shape[1]):
    times = [t for t in range(q.shape[1]) if 0 <= t + shift < o.shape[1]]
    if len(times) < max(1, 0.5 * min(q.shape[1], o.shape[1])):
      continue
    a, b = q[:, times], o[:, [t + shift for t in times]]
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    best = max(best, (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
  return best


@pytest.mark.parametrize("length", (5, 9, 16))
def test_equals_loops(length):
  rng = np.random.default_rng(length)
  q, others = rng.random((12, 9)), rng.random((4, 12, length))
  expected = [_direct(q, o) for o in others]
  np.testing.assert_allclose(chroma_correlation(q, others), expected, atol=1e-9)


def test_a_copy_is_found_at_any_shift():
  rng = np.random.default_rng(0)
  others = [rng.random((12, n)).astype(np.float32) for n in (30, 30, 50)]
  assert nearest_by_chroma(others[2][:, 11:41], others) == (2, pytest.approx(1.0))
  assert nearest_by_chroma(others[1], others, frozenset({1}))[1] < 0.6
  assert nearest_by_chroma(others[0], []) is None
  still = np.ones((12, 30)) * np.arange(12)[:, None]
  assert chroma_correlation(still, np.stack(others[:2])).max() == 0.0


def test_chroma_of_a_tone_is_its_pitch_class():
  time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
  found = chroma(np.sin(2 * np.pi * 440 * time))
  assert found.shape == (12, 11) and (found.argmax(axis=0)[1:-1] == 9).all()
