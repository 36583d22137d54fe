"""Denoising steps 5, 10 and 20 against FAD, MCC, notes and speed (MeLoDy, arXiv 2305.15719).

    launch/sweep.sh steps[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

Every run makes 16 prompts with one seed and compares them with held-out windows of DATASET, by
musicnn; paper wants a bundle of that size in checkpoints/paper. FAD of so few clips is too large,
for all rows alike. Scores and time: docs/results.md.
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
  return [{"sampling.sampler.steps": steps} for steps in (5, 10, 20)]
