"""Denoising steps 5, 10 and 20 against FAD, MCC, notes and speed (MeLoDy, arXiv 2305.15719).

    launch/sweep.sh steps[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

Prompts, reference and metrics: kinds/sampling.py. Scores and time: docs/results.md.
"""

from typing import Any

KIND = "sampling"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [{"sampling.sampler.steps": steps} for steps in (5, 10, 20)]
