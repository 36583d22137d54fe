"""Frames of a segment K of the DPD.

    launch/sweep.sh segment_length DIR --config.data.path=ENCODED --config.train.steps=STEPS

A longer segment is more steps of the fine path's recurrence and fewer places of the coarse path's
attention. K = 16 frames of 25 Hz are 0.64 s. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/dpd.py:nano"
MODULE = "melody_jax.train"
OUTPUT = "--workdir"
RESULT = "result.json"
METRICS = {
  "velocity MSE": ("metrics", "velocity_error"),
  "SI-SNR gain, dB": ("metrics", "si_snr_gain"),
}


def get_sweep() -> list[dict[str, Any]]:
  """The runs: values of config keys."""
  return [
    {"model.segment_size": frames, "seed": seed} for frames in (8, 16, 32, 64) for seed in (0, 1, 2)
  ]
