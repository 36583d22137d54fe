"""Residual k-means of music embeddings (docs/spec.md, section 3).

Writes rvq/codebooks [Q, K, C] into the file of MuLan.
"""

from typing import Any

import jax
import ml_collections

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.fitting.batches import clip_batches, collect
from melody_jax.models import quantizer
from melody_jax.models.mulan import MuLanConfig, embed_music


def fit_style(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fits and stores the residual codebooks; returns and stores their validation report."""
  path = bundle.path_of(config.bundle, "mulan")
  model_config, params = bundle.load_model(config.bundle, "mulan", MuLanConfig)
  embed = jax.jit(lambda audio: embed_music(params, model_config, audio))
  embeddings = collect(
    embed, clip_batches(config, config.data.split, config.windows, True), "embeddings"
  )
  if len(embeddings) < config.n_centres:
    raise UserError(
      f"{len(embeddings)} clips cannot fit {config.n_centres} centres: raise config.windows"
    )
  codebooks, _ = quantizer.fit_rvq(
    embeddings, jax.random.key(config.seed), config.n_levels, config.n_centres, config.iterations
  )
  bundle.update(path, {"rvq": {"codebooks": codebooks}}, {})
  stored = bundle.load(path)[0]["rvq"]["codebooks"]
  held_out = collect(
    embed, clip_batches(config, config.data.eval_split, config.eval_windows, False), "validation"
  )
  report = quantizer.rvq_report(stored, held_out)
  bundle.update(path, {}, {"rvq_report": report})
  for level, (used, cosine) in enumerate(
    zip(report["utilisation"], report["reconstruction_cosine"])
  ):
    print(f"level {level + 1}: {used:.1%} of the centres used, reconstruction cosine {cosine:.4f}")
  print(f"{path}: {config.n_levels} levels of {config.n_centres}, {len(held_out)} validation clips")
  return report
