"""Number of chunks M of a training window, each with an angle of its own.

    launch/sweep.sh chunks[:paper] DIR --config.data.path=ENCODED

With one, all frames of a window have the same angle: such a network cannot go on from music that is
there, which is clean, with music that is not. The frames of a window divide by all of these. Each
is measured on windows cut as in its training. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/dpd.py"
SEEDS = {"nano": 3, "paper": 1}
METRICS = {
  "velocity MSE": ("metrics", "velocity_error"),
  "SI-SNR gain, dB": ("metrics", "si_snr_gain"),
}


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  counts = (1, 2, 4, 10) if preset == "paper" else (1, 2, 5, 10)
  return [{"model.chunks": chunks} for chunks in counts]
