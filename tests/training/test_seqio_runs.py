"""Every model trains through seqio: evaluated, killed, gone on with, as if nothing had happened."""

import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("seqio", reason="TFDS and seqio need the [data] extra")

from melody_jax.task import TASKS
from melody_jax.training import loop
from melody_jax.training.checkpoint import load_params
from tests.training.datasets import run_config, write_audio, write_encoded
from tests.training.processes import start


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("datasets")
  write_audio(root / "audio"), write_encoded(root / "encoded")
  return root


def config_of(data, model, steps):
  c = run_config(model, data, steps)
  c.data.source = "seqio"
  c.train.batch_size = 2
  return c


def assert_equal(a, b):
  assert jax.tree.leaves(a)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


HEAVY = ("mulan", "wav2vec", "vae")  # half a minute to a minute each


@pytest.mark.parametrize(
  "model", [pytest.param(m, marks=pytest.mark.long) if m in HEAVY else m for m in TASKS]
)
def test_a_run_that_is_gone_on_with_equals_one_that_was_not(data, tmp_path, model, capsys):
  whole = loop.train(config_of(data, model, 4), tmp_path / "whole")
  said = capsys.readouterr().err
  # Both evaluations, the second from the first batch again.
  assert "step 2 validation" in said and "step 4 validation" in said
  # What a run leaves that is killed after the checkpoint of step 2.
  killed = shutil.copytree(tmp_path / "whole", tmp_path / "killed")
  shutil.rmtree(killed / "checkpoints" / "4")
  assert_equal(whole, loop.train(config_of(data, model, 4), killed))
  again = capsys.readouterr().err
  assert f"{model}: step 2 of 4" in again
  assert again.splitlines()[-1] == said.splitlines()[-1]  # of the last validation


@pytest.mark.parametrize("model", ["lm", pytest.param("dpd", marks=pytest.mark.long)])
def test_a_run_killed_with_signal_9_goes_on(data, tmp_path, model):
  config = config_of(data, model, 6)
  source, train = config.data, config.train
  settings = {
    f"train.{key}": train[key]
    for key in ("batch_size", "log_every", "save_every", "eval_every", "eval_batches", "media")
  } | {f"data.{key}": source[key] for key in ("source", "path")}
  settings |= {
    f"optimizer.{key}": config.optimizer[key] for key in ("schedule", "warmup_steps", "eps")
  }
  settings["window_seconds"] = config.window_seconds
  process = start([
    "-m", "melody_jax.train", f"--config=configs/{model}.py:tiny",
    f"--workdir={tmp_path / 'killed'}",
    *(f"--config.{key}={value}" for key, value in settings.items()),
    "--config.train.steps=1000000",
  ])  # fmt: skip
  assert process.stderr
  said = []
  for line in process.stderr:
    said.append(line)
    if line.startswith("step 5/"):
      break
  process.kill()
  process.communicate()
  assert said[-1].startswith("step 5/") and any("step 4 validation" in s for s in said), said
  resumed = loop.train(config, tmp_path / "killed")
  whole = loop.train(config, tmp_path / "whole")
  assert_equal(whole, resumed)
  assert_equal(load_params(tmp_path / "whole"), load_params(tmp_path / "killed"))
