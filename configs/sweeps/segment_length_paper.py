"""Frames of a segment K of the DPD, at the paper's size.

    launch/sweep.sh segment_length_paper DIR --config.data.path=ENCODED

A longer segment is more steps of the fine path's recurrence and fewer places of the coarse path's
attention. The paper's is K = 64, of 250 Hz. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/dpd.py:paper"
MODULE = "melody_jax.train"
OUTPUT = "--workdir"
RESULT = "result.json"
METRICS = {
  "velocity MSE": ("metrics", "velocity_error"),
  "SI-SNR gain, dB": ("metrics", "si_snr_gain"),
}


def get_sweep() -> list[dict[str, Any]]:
  """The runs: values of config keys."""
  return [{"model.segment_size": frames} for frames in (16, 32, 64, 128)]
