"""Guidance scales of the LM and of the DPD; 1 is none.

    launch/sweep.sh guidance[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

Each is varied beside the other's default. Prompts and reference as in steps.py. Scores and time:
docs/results.md.
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
  pairs = ((3.0, 1.0), (3.0, 2.0), (3.0, 3.0), (1.0, 2.0), (6.0, 2.0))
  return [
    {"sampling.sampler.lm_guidance_scale": lm, "sampling.sampler.guidance_scale": dpd}
    for lm, dpd in pairs
  ]
