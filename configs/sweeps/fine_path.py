"""SRU against attention inside the segments, in the DPD's fine path.

    launch/sweep.sh fine_path[:paper] DIR --config.data.path=ENCODED

The last setting has as many parameters as the first. At nano attention has 4 W^2 weights a layer
where the SRU has 3 W^2, and gives them back in FiLM's inner size; at the paper's size, where the
SRU is twice as wide, it gets six layers. Scores: not measured.
"""

from typing import Any

KIND = "denoiser"


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  equal = {"model.sru_layers": 6} if preset == "paper" else {"model.film_width": 128}
  attention = {"model.fine_path": "attention"}
  return [{"model.fine_path": "sru"}, attention, attention | equal]
