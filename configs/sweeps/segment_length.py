"""Frames of a segment K of the DPD.

    launch/sweep.sh segment_length[:paper] DIR --config.data.path=ENCODED

A longer segment is more steps of the fine path's recurrence and fewer places of the coarse path's
attention. nano's 16 frames of 25 Hz are 0.64 s, the paper's 64 of 250 Hz 0.26 s. Scores: not
measured.
"""

from typing import Any

KIND = "denoiser"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  lengths = (16, 32, 64, 128) if preset == "paper" else (8, 16, 32, 64)
  return [{"model.segment_size": frames} for frames in lengths]
