"""Learning rate of the semantic LM, at the size that the preset has.

    launch/sweep.sh lm_learning_rate DIR --config.data.path=ENCODED

The warm-up grows with the rate. `gather` compares their validation loss. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/lm.py"
SEEDS = {"nano": 1}
METRICS = {"validation loss": ("metrics", "loss")}


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [
    {"optimizer.learning_rate": 5e-4, "optimizer.warmup_steps": 30},
    {"optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 30},
    {"optimizer.learning_rate": 2e-3, "optimizer.warmup_steps": 60},
    {"optimizer.learning_rate": 4e-3, "optimizer.warmup_steps": 120},
  ]
