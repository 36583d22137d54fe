"""A bundle of five `tiny` models with random weights, for tests of what reads bundles."""

import json
import pathlib

from flax import linen as nn
import jax
import numpy as np

from melody_jax import bundle
from melody_jax.task import make_task
from tests.configs import load_config


def constants(model: str, config) -> dict:
  """Stand-ins for what fitting adds to a model's file."""
  rng = np.random.default_rng(0)
  if model == "mulan":
    codebooks = rng.normal(size=(12, 8, config.model.joint_size)) * 0.3
    return {"rvq": {"codebooks": codebooks.astype(np.float32)}}
  if model == "vae":
    d = config.model.latent_dim
    return {
      "latent_scale": {"center_D": np.zeros(d, np.float32), "sigma_D": np.ones(d, np.float32)}
    }
  if model == "wav2vec":
    by_teacher = config.model.tokens_from == "teacher"
    width = config.model.teacher_size if by_teacher else config.model.width
    centroids = rng.normal(size=(config.model.n_tokens, width)).astype(np.float32)
    kmeans = {"centroids": centroids, "mean": np.zeros(width), "std": np.ones(width)}
    return {"kmeans": {k: v.astype(np.float32) for k, v in kmeans.items()}}
  return {}


def write(
  directory: pathlib.Path, models=("vae", "mulan", "lm", "dpd", "wav2vec"), preset: str = "tiny"
) -> pathlib.Path:
  """Writes the files of `models` into `directory` and returns it."""
  for model in models:
    config = load_config(model, preset)
    task = make_task(config)
    params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
    params = jax.device_get(task.export_params(params))
    metadata = {
      "task": model, "preset": preset, "step": 0,
      "model_config": json.loads(config.model.to_json_best_effort()),
    }  # fmt: skip
    bundle.save(bundle.path_of(directory, model), params | constants(model, config), metadata)
  return directory
