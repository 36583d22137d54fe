"""Angle schedules: they sum to pi / 2, and unknown ones are refused."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.generation import schedules


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 100])
def test_schedules_sum_to_half_pi(name, steps):
  omegas = schedules.angle_schedule(name, steps)
  assert omegas.shape == (steps,)
  assert np.all(omegas > 0) and np.all(np.diff(omegas) <= 1e-7)
  np.testing.assert_allclose(omegas.sum(dtype=np.float64), np.pi / 2, rtol=1e-6)


def test_linear_schedule_is_the_papers():
  t, steps = np.arange(4, 0, -1), 4
  want = np.pi / (6 * steps) + 2 * np.pi * t / (3 * steps * (steps + 1))
  np.testing.assert_allclose(schedules.linear_schedule(steps), want, rtol=1e-6)


def test_bad_schedules_are_refused():
  with pytest.raises(UserError, match="cosine"):
    schedules.angle_schedule("cosine", 5)
  with pytest.raises(UserError, match="at least 1"):
    schedules.angle_schedule("linear", 0)
