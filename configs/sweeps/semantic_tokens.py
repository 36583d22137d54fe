"""What semantic tokens are worth to the DPD: a row's own, another row's, or none.

    launch/sweep.sh semantic_tokens DIR --config.data.path=ENCODED --config.train.steps=STEPS

Another row's tell the network what music sounds like at all, and nothing of this one: the gap
between the first two is what the tokens tell, that between the last two what it costs to be misled.
Scores: not measured.
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
    {"conditioning.tokens": tokens, "seed": seed}
    for tokens in ("right", "shuffled", "none")
    for seed in (0, 1, 2)
  ]
