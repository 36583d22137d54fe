"""What every model states about itself, and that the rest of the program can rely on it."""

import jax
import numpy as np
import pytest

from melody_jax.task import TASKS, BaseTask, make_task
from melody_jax.training.flops import matmul_flops, useful_flops
from tests.configs import load_config


def abstract_batch(task, rows=1):
  return {
    name: jax.ShapeDtypeStruct((rows, *f.shape), np.dtype(f.dtype))
    for name, f in task.input_features().items()
  }


@pytest.mark.parametrize("name", TASKS)
def test_tokens_have_a_vocabulary_and_nothing_else_has(name):
  for key, feature in make_task(load_config(name, "tiny")).input_features().items():
    assert (feature.vocabulary is not None) == (feature.dtype == "int32"), key
    assert feature.vocabulary is None or feature.vocabulary > 1


@pytest.mark.parametrize("name", TASKS)
def test_recomputation_is_not_useful_work(name):
  config = load_config(name, "tiny")
  config.train.batch_size = 1
  counts = []
  for remat in (False, True):
    with config.unlocked():
      config.model.remat = {False: "none", True: "full"}[remat] if name == "lm" else remat
    task = make_task(config)
    params = jax.eval_shape(task.init, jax.random.key(0))
    batch = abstract_batch(task)
    rng, step = jax.eval_shape(lambda: (jax.random.key(0), 0))
    whole = matmul_flops(jax.grad(task.loss, has_aux=True), params, batch, rng, step)
    counts.append((whole, useful_flops(task, params, batch)))
  (plain, plain_useful), (again, again_useful) = counts
  assert plain == plain_useful == again_useful < again


@pytest.mark.parametrize("name", TASKS)
def test_what_a_file_holds_goes_back_to_its_place(name):
  task = make_task(load_config(name, "tiny"))
  params = jax.eval_shape(task.init, jax.random.key(0))
  exported = task.export_params(params)
  back = task.import_params(exported)
  own = dict(jax.tree.leaves_with_path(params))
  given = dict(jax.tree.leaves_with_path(back))
  assert given and given.items() <= own.items()
  assert len(jax.tree.leaves(exported)) == len(given)


def test_defaults_ask_for_nothing():
  task = BaseTask(load_config("vae", "tiny"))
  params = {"w": np.ones(3)}
  batch = {"audio": np.zeros((1, 8))}
  assert task.tokenizer() is None and task.optimizer_labels(params) is None
  assert task.prepare(batch) is batch and task.media(params, batch, None) == {}
  assert task.without_recomputation() is task
  assert task.export_params(params) is params and task.import_params(params) is params
