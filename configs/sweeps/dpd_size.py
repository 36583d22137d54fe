"""Sizes of the dual-path diffusion model around nano: width, and number of dual-path blocks.

    launch/sweep.sh dpd_size DIR --config.data.path=ENCODED

The inner sizes keep their ratio to the width. `gather` compares their validation loss;
melody_jax.export and melody_jax.evaluate measure them further. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/dpd.py"
SEEDS = {"nano": 1}
METRICS = {"validation loss": ("metrics", "loss")}


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [
    {
      "model.width": width,
      "model.n_blocks": blocks,
      "model.ffn_width": 8 * width // 3,
      "model.sru_width": width // 2,
      "model.film_width": width,
    }
    for width, blocks in ((96, 6), (192, 3), (192, 6), (192, 9), (288, 6))
  ]
