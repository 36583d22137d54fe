"""SRU against attention inside the segments, in the DPD's fine path.

    launch/sweep.sh fine_path DIR --config.data.path=ENCODED --config.train.steps=STEPS

Attention has 4 W^2 weights a layer where the SRU has 3 W^2; the last row has them back from FiLM's
inner size, so that it has as many parameters as the first. Scores: not measured.
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
  paths: list[dict[str, Any]] = [
    {"model.fine_path": "sru"},
    {"model.fine_path": "attention"},
    {"model.fine_path": "attention", "model.film_width": 128},
  ]
  return [{**path, "seed": seed} for path in paths for seed in (0, 1, 2)]
