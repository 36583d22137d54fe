"""Schedule of angles against number of denoising steps (MeLoDy, arXiv 2305.15719, appendix D).

    launch/sweep.sh angle_schedule[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

The paper's FAD and MCC: uniform 8.52 and 0.45 at 10 steps, 6.31 and 0.49 at 20; linear 5.93 and
0.52, 5.41 and 0.53. Prompts and reference as in steps.py. Scores and time: docs/results.md.
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
    {"sampling.sampler.schedule": schedule, "sampling.sampler.steps": steps}
    for steps in (10, 20)
    for schedule in ("uniform", "linear")
  ]
