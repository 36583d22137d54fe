"""Fits a linear map from embeddings of captions to embeddings of their music.

Writes prior/kernel [C, C] and prior/offset [C], float32, into the file of MuLan.
`mulan.embed_prompt` uses them and says why they are needed.
"""

import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np

from melody_jax import bundle
from melody_jax.encoders.style import load_mulan
from melody_jax.input_pipeline.source import make_source
from melody_jax.models import mulan
from melody_jax.tasks.mulan import MuLanTask


def fit_linear(
  inputs_NxC: np.ndarray, targets_NxC: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
  """Ridge regression: finds kernel and offset with targets close to inputs @ kernel + offset.

  Args:
    inputs_NxC: Inputs, float [N, C].
    targets_NxC: Targets, float [N, C].
    ridge: Weight of |kernel|^2 against the mean squared error.

  Returns:
    (kernel float32 [C, C], offset float32 [C]).
  """
  # With the means taken off, the penalty falls on the kernel and not on the offset.
  x_mean, y_mean = inputs_NxC.mean(axis=0), targets_NxC.mean(axis=0)
  x, y = inputs_NxC - x_mean[None, :], targets_NxC - y_mean[None, :]
  gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
  kernel = np.linalg.solve(gram, x.T @ y / len(x))
  return kernel.astype(np.float32), (y_mean - x_mean @ kernel).astype(np.float32)


def fit_prior(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fits the text prior and stores it in the bundle.

  Args:
    config: Config of the fit (configs/fit.py:prior).

  Returns:
    The report, which is stored as well: number of held-out pairs, and the mean cosine of caption
    and music with and without the prior.

  Raises:
    UserError: The bundle has no MuLan, the text encoder is missing, or config.data names no data.
  """
  path = bundle.path_of(config.bundle, "mulan")
  model_config, params = load_mulan(config.bundle)
  with_text = jax.device_put(mulan.with_text_body(params, model_config))
  config = config.copy_and_resolve_references().unlock()
  # The task and its tokeniser read config.model; the bundle knows the right one.
  config.model = dataclasses.asdict(model_config)

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
  # A quarter of the windows of the fit is enough for two means.
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
