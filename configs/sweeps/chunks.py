"""Number of chunks M of a training window, each with an angle of its own.

    launch/sweep.sh chunks[:paper] DIR --config.data.path=ENCODED

With one, all frames of a window have the same angle: such a network cannot go on from music that is
there, which is clean, with music that is not. The frames of a window divide by all of these. Each
is measured on windows cut as in its training. Scores: not measured.
"""

from typing import Any

KIND = "denoiser"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  counts = (1, 2, 4, 10) if preset == "paper" else (1, 2, 5, 10)
  return [{"model.chunks": chunks} for chunks in counts]
