"""SRU against attention inside the segments, in the DPD's fine path, at the paper's size.

    launch/sweep.sh fine_path_paper DIR --config.data.path=ENCODED

Two layers of attention are as wide as the network, those of the SRU twice as wide; the last row has
six of attention, and so as many parameters as the first. Scores: not measured.
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
  paths: list[dict[str, Any]] = [
    {"model.fine_path": "sru"},
    {"model.fine_path": "attention"},
    {"model.fine_path": "attention", "model.sru_layers": 6},
  ]
  return paths
