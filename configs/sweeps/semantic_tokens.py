"""What semantic tokens are worth to the DPD: a row's own, another row's, or none.

    launch/sweep.sh semantic_tokens[:paper] DIR --config.data.path=ENCODED

Another row's tell the network what music sounds like at all, and nothing of this one: the gap
between the first two is what the tokens tell, that between the last two what it costs to be misled.
Scores: not measured.
"""

from typing import Any

KIND = "denoiser"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  del preset
  return [{"conditioning.tokens": tokens} for tokens in ("right", "shuffled", "none")]
