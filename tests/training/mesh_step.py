"""Run by test_mesh.py with eight virtual devices: one step on a mesh against one device.

python -m tests.training.mesh_step MODEL ...    prints a line of JSON for each: largest differences
"""

import json
import sys
import traceback

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from melody_jax import sharding
from melody_jax.task import make_task
from melody_jax.training.loop import compile_media
from melody_jax.training.state import make_init, sharded_init, shardings_of_state
from melody_jax.training.step import compile_train_step, make_train_step
from tests.configs import load_config, waveform_vae

# Beside the tiny presets: the paper's VAE-GAN, whose players update in turns, part after part of a
# batch; and one player alone with an encoder that stands still.
VARIANTS = ("vae_waveform", "vae_frozen")


def config_of(name: str):
  if name == "vae_waveform":
    config = waveform_vae()
    config.train.accumulate = 2
    return config
  config = load_config(name.removesuffix("_frozen"), "tiny")
  if name == "vae_frozen":
    config.loss.train_encoder = False
  return config


def random_batch(task, rows: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  batch = {}
  for name, feature in task.input_features().items():
    shape = (rows, *feature.shape)
    if feature.dtype == "bool":
      batch[name] = np.ones(shape, bool)
    elif feature.vocabulary:
      batch[name] = rng.integers(0, feature.vocabulary, shape).astype(feature.dtype)
    else:
      batch[name] = (0.2 * rng.normal(size=shape)).astype(feature.dtype)
  return batch


def step_on(config, task, devices, sizes, batch):
  mesh = Mesh(np.asarray(devices).reshape(sizes), sharding.MESH_AXES)
  init, optimizers, boxed = make_init(config, task)
  shardings = shardings_of_state(mesh, init, boxed)
  state = sharded_init(mesh, init, shardings)(jax.random.key(0))
  before = jax.device_get(state.params)
  step = compile_train_step(make_train_step(config, task, optimizers), mesh, shardings)
  rows = sharding.batch_sharding(mesh)
  batch = {k: jax.device_put(v, rows) for k, v in batch.items()}
  state, metrics = step(state, batch)
  split = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
  if len(devices) > 1:
    media = compile_media(task, mesh)(state.params, batch, jax.random.key(0))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(media)), "a host cannot read it"
  return jax.device_get((state.params, metrics)), before, split


def compare(name: str) -> dict:
  config = config_of(name)
  config.train.batch_size = 8
  # The warm-up's first rate is zero; Adam would blow a gradient of rounding errors up to a
  # whole step, so that its epsilon lies above them.
  config.optimizer.warmup_steps = 0
  config.optimizer.eps = 1e-2
  task = make_task(config)
  batch = random_batch(task, 8)
  devices = jax.devices()
  (one, one_metrics), before, _ = step_on(config, task, devices[:1], (1, 1, 1), batch)
  (many, many_metrics), _, split = step_on(config, task, devices, (2, 2, 2), batch)

  def largest(a, b):
    differences = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y))), a, b)
    return max(jax.tree.leaves(differences))

  one_loss = float(one_metrics["loss"])
  return {
    "devices": len(devices),
    "parameters": largest(one, many),
    "moved": largest(one, before),
    # Rounding is relative: a loss of 30 is not summed to 1e-5.
    "loss": abs(one_loss - float(many_metrics["loss"])) / max(1.0, abs(one_loss)),
    "split": split,
  }


if __name__ == "__main__":
  for model in sys.argv[1:]:
    try:
      print(json.dumps({"model": model, **compare(model)}), flush=True)
    except Exception:  # the other models are compared all the same; the test prints this one's
      traceback.print_exc()
    jax.clear_caches()
