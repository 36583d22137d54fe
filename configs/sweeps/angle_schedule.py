"""Schedule of angles against number of denoising steps (MeLoDy, arXiv 2305.15719, appendix D).

    launch/sweep.sh angle_schedule[:paper] DIR --config.bundle=BUNDLE --config.data=NAME=DATASET

The paper's FAD and MCC: uniform 8.52 and 0.45 at 10 steps, 6.31 and 0.49 at 20; linear 5.93 and
0.52, 5.41 and 0.53. Prompts, reference and metrics: kinds/sampling.py. Scores and time:
docs/results.md.
"""

from typing import Any

KIND = "sampling"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [
    {"sampling.sampler.schedule": schedule, "sampling.sampler.steps": steps}
    for steps in (10, 20)
    for schedule in ("uniform", "linear")
  ]
