"""train.init_from: a run begins with the parameters of a model's file."""

import jax
import numpy as np
import pytest

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.task import make_task
from melody_jax.training.initial_params import with_params_of
from melody_jax.training.state import make_init
from tests.configs import load_config


def new_state(model: str, **changes):
  config = load_config(model, "tiny")
  config.model.update(changes)
  task = make_task(config)
  init, _, _ = make_init(config, task)
  # One program: made one operation after the other, it takes a GB more while it compiles.
  return jax.jit(init)(jax.random.key(7)), task


def same(a, b) -> bool:
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_parameters_and_average_come_from_the_file(tiny_models):
  state, task = new_state("dpd")
  path = bundle.path_of(tiny_models, "dpd")
  params, _ = bundle.load(path)
  assert not same(state.params, params)
  begun = with_params_of(state, path, task, "dpd")
  assert same(begun.params, params) and same(begun.ema, params)
  assert same(begun.opt_state, state.opt_state) and int(begun.step) == 0


def test_modules_that_serve_training_alone_stay_new(tiny_models, capsys):
  state, task = new_state("vae")
  path = bundle.path_of(tiny_models, "vae")
  begun = with_params_of(state, path, task, "vae").params
  params, _ = bundle.load(path)
  params.pop("latent_scale")
  assert same(begun["generator"], params)
  others = [k for k in begun if k != "generator"]
  assert others and all(same(begun[k], state.params[k]) for k in others)
  assert "not in it: some of " + ", ".join(sorted(others)) in capsys.readouterr().err


def test_fitted_centres_are_not_parameters(tiny_models):
  state, task = new_state("wav2vec")
  begun = with_params_of(state, bundle.path_of(tiny_models, "wav2vec"), task, "wav2vec").params
  assert jax.tree.structure(begun) == jax.tree.structure(state.params)


def test_a_file_of_another_task_or_size_is_refused(tiny_models, tmp_path):
  state, task = new_state("dpd")
  with pytest.raises(UserError, match=r"task 'vae', this run trains 'dpd'"):
    with_params_of(state, bundle.path_of(tiny_models, "vae"), task, "dpd")
  with pytest.raises(UserError, match="no checkpoint at"):
    with_params_of(state, tmp_path / "dpd.safetensors", task, "dpd")
  state, task = new_state("dpd", film_width=40)
  with pytest.raises(UserError, match=r"in the file and .* in the config's model"):
    with_params_of(state, bundle.path_of(tiny_models, "dpd"), task, "dpd")
  state, task = new_state("dpd", coarse_layers=3)
  with pytest.raises(UserError, match="is not in the file|in the config's model"):
    with_params_of(state, bundle.path_of(tiny_models, "dpd"), task, "dpd")


def test_an_lm_takes_style_rows_of_the_named_mulan_and_all_else_of_the_file(tiny_models, tmp_path):
  state, task = new_state("lm")
  path, c = bundle.path_of(tiny_models, "lm"), task.model_config
  mulan, metadata = bundle.load(bundle.path_of(tiny_models, "mulan"))
  mulan["rvq"]["codebooks"] = -mulan["rvq"]["codebooks"]
  bundle.save(tmp_path / "mulan.safetensors", mulan, metadata)
  task.config.conditioning.style_codebooks = str(tmp_path / "mulan.safetensors")
  task.config.seed = 7  # as `new_state` draws
  begun = with_params_of(state, path, task, "lm").params
  params, _ = bundle.load(path)
  mine, files = (np.asarray(p["embed"]["table"]["embedding"]) for p in (begun, params))
  shape = c.style_levels, c.style_vocab + 1, c.width
  mine_rows, files_rows = (x[: c.semantic_offset].reshape(shape) for x in (mine, files))
  fresh, _ = jax.random.split(jax.random.key(7))
  born = np.asarray(task.init(fresh)["embed"]["table"]["embedding"].value)[: c.semantic_offset]
  np.testing.assert_allclose(mine_rows[:, :-1], born.reshape(shape)[:, :-1], rtol=1e-5)
  assert not np.array_equal(mine_rows[:, :-1], files_rows[:, :-1])
  assert np.array_equal(mine_rows[:, -1], files_rows[:, -1])  # "no style" is learned
  assert np.array_equal(mine[c.semantic_offset :], files[c.semantic_offset :])
  for tree in (begun, params):
    tree["embed"]["table"].pop("embedding")
  assert same(begun, params)
