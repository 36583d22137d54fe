"""Schedule of angles against number of denoising steps (MeLoDy, arXiv 2305.15719, section 6).

    launch/sweep.sh angle_schedule DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

Every run generates the prompts of configs/evaluate.py with the same seeds; prompts.md in its
directory has the table. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/evaluate.py"
SEEDS = {"prompts": 1}
METRICS = {
  "margin of the right prompt, MuLan": ("tests", "MuLan, centred", "margin"),
  "margin, musicnn": ("tests", "musicnn", "margin"),
}


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [
    {"prompts.sampling.schedule": schedule, "prompts.sampling.steps": steps}
    for steps in (5, 10, 20)
    for schedule in ("uniform", "linear")
  ]
