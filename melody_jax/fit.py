"""Fits constants on a corpus and adds them to a model's file in a bundle.

    python -m melody_jax.fit --config=configs/fit.py:semantic \
        --config.bundle=DIR --config.data.path=DATASETS

What is fitted: `semantic` and `style`, the quantisers of semantic features and of music embeddings;
`prior`, the map from captions to their music; `latents`, the scale of the VAE's latents;
`axes`, the principal axes that a codec without phase is born as.
"""

from collections.abc import Callable
import math
from typing import Any

import ml_collections

from melody_jax import cli
from melody_jax.config import check_ranges
from melody_jax.errors import check_choice
from melody_jax.fitting.axes import fit_axes
from melody_jax.fitting.latents import fit_latents
from melody_jax.fitting.prior import fit_prior
from melody_jax.fitting.semantic import fit_semantic
from melody_jax.fitting.style import fit_style
from melody_jax.generation import programs

FITS: dict[str, Callable[[ml_collections.ConfigDict], dict[str, Any]]] = {
  "semantic": fit_semantic,
  "style": fit_style,
  "prior": fit_prior,
  "latents": fit_latents,
  "axes": fit_axes,
}

# Every fit has some of these keys.
RANGES = {
  "seed": (0, 2**32 - 1),
  "window_seconds": (0.01, math.inf),
  "ridge": (0, math.inf),
} | {
  key: (1, math.inf)
  for key in (
    "train.batch_size",
    "windows",
    "eval_windows",
    "passes",
    "points",
    "n_levels",
    "n_centres",
    "iterations",
  )
}


def fit(config: ml_collections.ConfigDict) -> None:
  """Runs the fit that `config.what` names.

  Raises:
    UserError: for a name that FITS lacks, or data or a bundle that do not suit it.
  """
  check_choice("config.what", config.what, FITS)
  check_ranges(config, RANGES)
  programs.use_compilation_cache()
  FITS[config.what](config)


if __name__ == "__main__":
  cli.run(fit)
