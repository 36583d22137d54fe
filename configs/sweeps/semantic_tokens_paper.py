"""What semantic tokens are worth to the DPD: right, shuffled, none, at the paper's size.

    launch/sweep.sh semantic_tokens_paper DIR --config.data.path=ENCODED

Another row's tell the network what music sounds like at all, and nothing of this one: the gap
between the first two is what the tokens tell, that between the last two what it costs to be misled.
Scores: not measured.
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
  return [{"conditioning.tokens": tokens} for tokens in ("right", "shuffled", "none")]
