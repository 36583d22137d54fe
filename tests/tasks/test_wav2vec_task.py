"""One training step of the tokeniser's task."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from melody_jax.task import make_task
from tests.configs import load_config


def batch_of(task, rows: int) -> dict:
  shape = task.input_features()["audio"].shape
  return {"audio": 0.1 * np.random.default_rng(0).normal(size=(rows, *shape)).astype(np.float32)}


def test_steps_are_finite_and_reach_every_parameter():
  config = load_config("wav2vec", "tiny")
  config.loss.freeze_targets = False
  task = make_task(config)
  params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
  batch = batch_of(task, 2)
  step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
  (loss, metrics), grads = step(params, batch, jax.random.key(1), jnp.zeros((), jnp.int32))
  assert np.isfinite(loss) and all(np.isfinite(m) for m in metrics.values())
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all() and np.abs(g).max() > 0, jax.tree_util.keystr(path)
  optimizer = optax.adam(3e-3)
  state, first = optimizer.init(params), float(loss)
  for i in range(15):  # the same draws each time: they must be learnable
    (loss, _), grads = step(params, batch, jax.random.key(1), jnp.full((), i))
    updates, state = optimizer.update(grads, state)
    params = optax.apply_updates(params, updates)
  assert float(loss) < first - 0.1


def test_evaluation_repeats_exactly():
  task = make_task(load_config("wav2vec", "tiny"))
  params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
  evaluate = jax.jit(
    lambda p, b: task.loss(p, b, jax.random.key(1), jnp.zeros((), jnp.int32), train=False)
  )
  batch = batch_of(task, 2)
  assert float(evaluate(params, batch)[0]) == float(evaluate(params, batch)[0])


@pytest.mark.parametrize("conv_norm", ["layer", "batch"])
@pytest.mark.parametrize("freeze_targets", [False, True])
def test_batch_statistics_and_frozen_targets_never_train(conv_norm, freeze_targets):
  config = load_config("wav2vec", "tiny")
  config.model.conv_norm = conv_norm
  config.loss.freeze_targets = freeze_targets
  task = make_task(config)
  params = jax.eval_shape(lambda: nn.meta.unbox(task.init(jax.random.key(0))))
  labels = task.optimizer_labels(params)
  if conv_norm == "layer" and not freeze_targets:
    assert labels is None
    return
  frozen = {
    jax.tree_util.keystr(path)
    for path, label in jax.tree_util.tree_leaves_with_path(labels)
    if label == "frozen"
  }
  statistics = {path for path in frozen if "conv_norm" in path}
  assert len(statistics) == (2 if conv_norm == "batch" else 0)
  encoder = {path for path in frozen if path.startswith("['feature_encoder']")}
  logits = {path for path in frozen if path.startswith("['quantizer']['logits']")}
  assert frozen == statistics | encoder | logits
  assert bool(encoder) == bool(logits) == freeze_targets
