"""First- and second-order solvers against number of denoising steps.

    launch/sweep.sh solver[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

Prompts, reference and metrics: kinds/sampling.py. Scores and time: docs/results.md.
"""

from typing import Any

KIND = "sampling"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [
    {"sampling.sampler.solver": solver, "sampling.sampler.steps": steps}
    for steps in (4, 8)
    for solver in ("ddim", "ab2")
  ]
