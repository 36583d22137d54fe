"""Fits constants on a corpus and adds them to a model's file in a bundle.

    python -m melody_jax.fit --config=configs/fit.py:semantic \
        --config.bundle=DIR --config.data.path=DATASETS

What is fitted: `semantic` and `style`, the quantisers of semantic features and of music embeddings;
`prior`, the map from captions to their music; `latents`, the scale of the VAE's latents;
`axes`, the principal axes that a codec without phase is born as.
"""

import importlib
import math

import ml_collections

from melody_jax import cli
from melody_jax.config import check_numbers, check_page, check_ranges
from melody_jax.errors import check_choice

# Named, not imported: --help and a wrong command line must not wait for JAX.
FITS = {
  "semantic": "melody_jax.fitting.semantic:fit_semantic",
  "style": "melody_jax.fitting.style:fit_style",
  "prior": "melody_jax.fitting.prior:fit_prior",
  "latents": "melody_jax.fitting.latents:fit_latents",
  "axes": "melody_jax.fitting.axes:fit_axes",
}

# The model whose file a fit writes.
MODELS = {
  "semantic": "wav2vec",
  "style": "mulan",
  "prior": "mulan",
  "latents": "vae",
  "axes": "vae",
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
  check_page(config, "what", "windows")
  check_choice("config.what", config.what, FITS)
  check_ranges(config, RANGES)
  check_numbers(config)
  from melody_jax import bundle
  from melody_jax.generation import programs

  bundle.check_writable(config.bundle, MODELS[config.what])
  programs.use_compilation_cache()
  module, name = FITS[config.what].split(":")
  getattr(importlib.import_module(module), name)(config)


if __name__ == "__main__":
  cli.run(fit)
