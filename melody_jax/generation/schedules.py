"""Schedules of angles for sampling, by name (docs/spec.md, section 6).

The sum of the angle steps omega_t over t = T, ..., 1 is pi / 2, from pure noise to clean latents.
Plain numpy: the names are checked before JAX is loaded.
"""

import math

import numpy as np

from melody_jax.errors import UserError, check_choice


def linear_schedule(steps: int) -> np.ndarray:
  """Angle steps of the paper, in the order they are taken (t = T down to 1): float32 [T].

      omega_t = pi / (6 T) + 2 pi t / (3 T (T + 1)),      sum over t = pi / 2

  Large steps come first, where there is most noise.
  """
  # In float64, so that the rounded steps still sum to pi / 2.
  t = np.arange(steps, 0, -1, dtype=np.float64)
  return (math.pi / (6 * steps) + 2 * math.pi * t / (3 * steps * (steps + 1))).astype(np.float32)


def uniform_schedule(steps: int) -> np.ndarray:
  """omega_t = pi / (2 T) (Schneider et al. 2023, arXiv 2301.11757): float32 [T]."""
  return np.full((steps,), math.pi / 2 / steps, dtype=np.float32)


SCHEDULES = {"linear": linear_schedule, "uniform": uniform_schedule}


def angle_schedule(name: str, steps: int) -> np.ndarray:
  """Angle steps float32 [T] that sum to pi / 2, largest noise first.

  Raises:
    UserError: for an unknown name or fewer than one step.
  """
  check_choice("schedule", name, SCHEDULES)
  if steps < 1:
    raise UserError(f"{steps} denoising steps; at least 1 is needed")
  return SCHEDULES[name](steps)
