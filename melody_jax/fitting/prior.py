"""The linear map from embeddings of captions to those of their music, by ridge regression.

Writes prior/kernel [C, C] and prior/offset [C] into the file of MuLan; `mulan.embed_prompt` uses
them.
"""

import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np

from melody_jax import bundle
from melody_jax.input_pipeline.source import make_source
from melody_jax.models import mulan
from melody_jax.tasks.mulan import MuLanTask


def fit_linear(
  inputs_NxC: np.ndarray, targets_NxC: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
  """Ridge regression: (kernel [C, C], offset [C]) with targets about inputs kernel + offset.

  `ridge` is the weight of |kernel|^2 against the mean squared error.
  """
  x_mean, y_mean = inputs_NxC.mean(axis=0), targets_NxC.mean(axis=0)
  x, y = inputs_NxC - x_mean[None, :], targets_NxC - y_mean[None, :]
  gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
  kernel = np.linalg.solve(gram, x.T @ y / len(x))
  return kernel.astype(np.float32), (y_mean - x_mean @ kernel).astype(np.float32)


def fit_prior(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fits and stores the text prior; returns and stores what it does to held-out pairs."""
  path = bundle.path_of(config.bundle, "mulan")
  model_config, params = bundle.load_model(config.bundle, "mulan", mulan.MuLanConfig)
  with_text = jax.device_put(mulan.with_text_body(params, model_config))
  config = config.copy_and_resolve_references().unlock()
  config.model = dataclasses.asdict(model_config)  # the task and its tokeniser read it

  @jax.jit
  def pairs(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    text = mulan.embed_text(params, model_config, batch["text_ids"], batch["text_mask"])
    return text, mulan.embed_music(params, model_config, batch["audio"])

  def collect(split: str, windows: int) -> tuple[np.ndarray, np.ndarray]:
    source = make_source(config, MuLanTask(config), split)
    made = [pairs(with_text, next(source)) for _ in range(-(-windows // config.train.batch_size))]
    text, music = (np.concatenate([np.asarray(m[i]) for m in made]) for i in (0, 1))
    return text, music

  kernel, offset = fit_linear(*collect(config.data.split, config.windows), config.ridge)
  text, music = collect(config.data.eval_split, min(config.eval_windows, config.windows // 4))
  moved = text @ kernel + offset[None, :]
  moved /= np.linalg.norm(moved, axis=1, keepdims=True)
  report = {
    "pairs": len(text),
    "cosine_without": float(np.mean(np.sum(text * music, axis=1))),
    "cosine_with": float(np.mean(np.sum(moved * music, axis=1))),
  }
  bundle.update(path, {"prior": {"kernel": kernel, "offset": offset}}, {"prior_report": report})
  print(
    f"{path}: on {len(text)} validation pairs the cosine of caption and music is"
    f" {report['cosine_with']:.3f} through the prior, {report['cosine_without']:.3f} without"
  )
  return report
