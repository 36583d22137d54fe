"""Guidance scales of the LM and of the DPD; 1 is none.

    launch/sweep.sh guidance[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

Each is varied beside the other's default, 3 and 1.5 in configs/sample.py. Prompts, reference and
metrics: kinds/sampling.py. Scores and time: docs/results.md.
"""

from typing import Any

KIND = "sampling"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  pairs = ((3.0, 1.0), (3.0, 1.5), (3.0, 3.0), (1.0, 1.5), (6.0, 1.5))
  return [
    {"sampling.sampler.lm_guidance_scale": lm, "sampling.sampler.guidance_scale": dpd}
    for lm, dpd in pairs
  ]
