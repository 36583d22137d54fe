"""Number of chunks M of a training window, each with an angle of its own.

    launch/sweep.sh chunks DIR --config.data.path=ENCODED --config.train.steps=STEPS

With one, all frames of a window have the same angle: such a network cannot go on from music that is
there, which is clean, with music that is not. 250 frames divide by all of these. Each is measured
on windows cut as in its training. Scores: not measured.
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
  return [{"model.chunks": chunks, "seed": seed} for chunks in (1, 2, 5, 10) for seed in (0, 1, 2)]
