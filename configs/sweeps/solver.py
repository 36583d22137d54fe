"""First- and second-order solvers against number of denoising steps.

    launch/sweep.sh solver[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

Prompts and reference as in steps.py. Scores and time: docs/results.md.
"""

from typing import Any

CONFIG = "configs/evaluate.py"
SEEDS = {"nano": 3, "paper": 3}
BASE = {"nano": "sampling", "paper": "sampling"}
RECIPE = {"paper": {"bundle": "checkpoints/paper", "sampling.reference_windows": 1000}}
METRICS = {
  "FAD": ("scores", "fad"),
  "KAD": ("scores", "kad"),
  "MCC": ("scores", "mcc"),
  "right family": ("scores", "right_family"),
  "held notes a second": ("scores", "held_notes"),
  "network passes": ("scores", "nfe"),
  "seconds of audio a second": ("scores", "audio_seconds_per_second"),
}


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [
    {"sampling.sampler.solver": solver, "sampling.sampler.steps": steps}
    for steps in (4, 8)
    for solver in ("ddim", "ab2")
  ]
