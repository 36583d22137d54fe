"""The loop: a resumed run equals an uninterrupted one, and checkpoints export."""

import json

import jax
import numpy as np
import pytest

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.export import export
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.task import make_task
from melody_jax.training import loop
from melody_jax.training.checkpoint import load_params
from melody_jax.training.state import make_init
from tests.configs import load_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  for split in ("train", "validation"):
    writer = ShardWriter(root, split, 0, 1, {"audio": Feature(24_000, "int16")})
    for i in range(2):
      t = np.arange(3 * 24_000) / 24_000
      wave = 0.2 * np.sin(2 * np.pi * 220 * (i + 1) * t) + 0.01 * rng.normal(size=t.size)
      writer.write({"id": str(i)}, {"audio": (wave * 32767).astype(np.int16)})
    writer.close()
  c = load_config("vae", "tiny")
  c.data.path = str(root)
  c.train.steps = 4
  c.train.save_every = 2
  c.train.eval_every = 4
  return c


def test_resumed_run_equals_uninterrupted_run(config, tmp_path):
  half = config.copy_and_resolve_references()
  half.train.steps = 2
  # The schedule must not change with the interruption: it is constant here.
  for c in (config, half):
    c.optimizer.schedule = "constant"
    c.optimizer.warmup_steps = 1
  whole = loop.train(config, tmp_path / "whole")
  loop.train(half, tmp_path / "resumed")
  resumed = loop.train(config, tmp_path / "resumed")
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

  config.export.bundle = str(tmp_path / "bundle")
  export(config, tmp_path / "resumed")
  params, metadata = bundle.load(tmp_path / "bundle" / "vae.safetensors")
  assert metadata["step"] == 4 and metadata["task"] == "vae"
  assert set(params) == {"encoder", "decoder"}
  ema, _ = load_params(tmp_path / "resumed")
  # The file holds float16.
  for name in params:
    stored, own = jax.tree.leaves(params[name]), jax.tree.leaves(ema["generator"][name])
    for a, b in zip(stored, own, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
  assert json.loads((tmp_path / "resumed" / "config.json").read_text())["task"] == "vae"
  results = [tmp_path / name / "result.json" for name in ("whole", "resumed")]
  found = [json.loads(path.read_text()) for path in results]
  assert found[0] == found[1] and found[0]["step"] == 4 and found[0]["metrics"]
  # Killed before it could note its result: the same command does so, and takes no step.
  results[1].unlink()
  loop.train(config, tmp_path / "resumed")
  assert json.loads(results[1].read_text()) == found[0]


def test_init_from_begins_a_run_and_a_resumed_one_ignores_it(config, tmp_path):
  c = config.copy_and_resolve_references()
  c.train.eval_every = 0
  c.train.steps = 1
  c.export.bundle, c.export.dtype = str(tmp_path / "bundle"), "float32"
  first = loop.train(c, tmp_path / "first")
  export(c, tmp_path / "first")
  c.train.init_from = str(tmp_path / "bundle" / "vae.safetensors")
  c.seed, c.train.steps = 1, 0
  born = loop.train(c, tmp_path / "second")
  for a, b in zip(
    jax.tree.leaves(first.params["generator"]),
    jax.tree.leaves(born.params["generator"]),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  c.train.steps = 1
  stepped = loop.train(c, tmp_path / "second")
  (tmp_path / "bundle" / "vae.safetensors").unlink()
  resumed = loop.train(c, tmp_path / "second")  # has a checkpoint: the file is not asked for
  for a, b in zip(jax.tree.leaves(stepped), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_frozen_encoder_stays_as_it_was_born(config, tmp_path):
  c = config.copy_and_resolve_references()
  c.loss.train_encoder = False
  c.train.steps = 2
  c.optimizer.warmup_steps = 0
  c.train.eval_every = 0
  loop.train(c, tmp_path)
  c.train.steps = 4  # frozen parts have no optimiser state: resuming must know that too
  params = loop.train(c, tmp_path).params
  init, _, _ = make_init(c, make_task(c))
  # Compiled as the loop does: the same sums in another order differ in the last digit.
  born = jax.jit(init)(jax.random.key(c.seed)).params
  for a, b in zip(
    jax.tree.leaves(params["generator"]["encoder"]),
    jax.tree.leaves(born["generator"]["encoder"]),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()),
    params["generator"]["decoder"],
    born["generator"]["decoder"],
  )
  assert max(jax.tree.leaves(moved)) > 1e-5


def test_no_data_is_one_clear_error(config, tmp_path):
  c = config.copy_and_resolve_references()
  c.data.path = ""
  with pytest.raises(UserError, match="config.data.path is empty"):
    loop.train(c, tmp_path)
  c.data.path = str(tmp_path / "nowhere")
  with pytest.raises(UserError, match="no dataset directory"):
    loop.train(c, tmp_path)


def test_a_second_training_in_one_directory_is_refused(config, tmp_path, monkeypatch):
  tried = []

  class Second(loop.PreemptionNotice):
    """Begins the same run in the middle of the first one."""

    def __enter__(self):
      with pytest.raises(UserError, match="being written by another command.*another --workdir"):
        loop.train(config, tmp_path / "run")
      tried.append(sorted(p.name for p in (tmp_path / "run").iterdir()))
      return super().__enter__()

  monkeypatch.setattr(loop, "PreemptionNotice", Second)
  c = config.copy_and_resolve_references()
  c.train.steps = 1
  c.train.eval_every = 0
  assert int(loop.train(c, tmp_path / "run").step) == 1 and tried
  monkeypatch.undo()
  assert int(loop.train(c, tmp_path / "run").step) == 1  # nothing is locked any more


def test_export_without_a_run(config, tmp_path):
  config.export.bundle = str(tmp_path / "b")
  with pytest.raises(UserError, match="no checkpoints under"):
    export(config, tmp_path / "none")
