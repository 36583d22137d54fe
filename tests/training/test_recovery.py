"""Runs that are told to stop, killed, torn, or fed with NaN."""

import json
import math
import random
import resource
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax import sharding
from melody_jax.errors import UserError
from melody_jax.tasks.lm import LMTask
from melody_jax.training import loop
from melody_jax.training.checkpoint import load_params
from tests.configs import load_config
from tests.training.processes import start, train_arguments, write_token_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_token_dataset(tmp_path_factory.mktemp("tokens"))


def config_of(data, steps: int):
  c = load_config("lm", "tiny")
  c.data.path = str(data)
  c.train.steps, c.train.save_every, c.train.log_every, c.train.eval_every = steps, 2, 3, 0
  c.train.ema_decay = 0.9
  c.optimizer.schedule = "constant"
  return c


@pytest.fixture
def config(data):
  return config_of(data, 6)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  """The state after six steps that nothing interrupted."""
  return loop.train(config_of(data, 6), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def four_steps(data, tmp_path_factory):
  """A run with checkpoints at steps 2 and 4."""
  run = tmp_path_factory.mktemp("four_steps")
  loop.train(config_of(data, 4), run)
  return run


@pytest.fixture
def begun(four_steps, tmp_path):
  """A copy of it for one test: to be damaged, or gone on with."""
  return shutil.copytree(four_steps, tmp_path / "run")


def assert_equal(a, b):
  assert jax.tree.leaves(a)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def poison(monkeypatch, at_step):
  """The loss of one step, counted from 1, becomes NaN, and so do its gradients."""
  honest = LMTask.loss

  def loss(self, params, batch, rng, step, train=True):
    value, metrics = honest(self, params, batch, rng, step, train)
    value = jnp.where(jnp.asarray(step) + 1 == at_step, jnp.nan, 1.0) * value
    return value, metrics | {"loss": value}

  monkeypatch.setattr(LMTask, "loss", loss)


def test_nan_stops_the_run_and_names_step_and_batch(config, tmp_path, monkeypatch):
  poison(monkeypatch, at_step=4)
  with pytest.raises(UserError, match=r"step 4: .* data \{'position': 3\}"):
    loop.train(config, tmp_path)
  params, _ = load_params(tmp_path)  # every checkpoint that was written is sound
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_nan_is_skipped_on_request(config, tmp_path, monkeypatch, capsys):
  poison(monkeypatch, at_step=4)
  config.train.on_nonfinite = "skip"
  state = loop.train(config, tmp_path)
  assert int(state.step) == 6
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
  assert "step 4: loss or gradients are not finite" in capsys.readouterr().err
  # The update of step 4, and nothing else, is missing.
  assert int(state.opt_state[1][0].count) == 5


def test_unknown_policy_is_refused(config, tmp_path):
  config.train.on_nonfinite = "ignore"
  with pytest.raises(UserError, match="one of stop, skip"):
    loop.train(config, tmp_path)


def tear(step_directory, how: str) -> None:
  """Damages a checkpoint as a crash of disk or machine would."""
  files = [f for f in step_directory.rglob("*") if f.is_file()]
  if how == "truncated data":
    victim = max((f for f in files if "/d/" in f.as_posix()), key=lambda f: f.stat().st_size)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
  elif how == "missing data":
    for f in files:
      if "/d/" in f.as_posix():
        f.unlink()
  elif how == "empty metadata":
    (step_directory / "state" / "_METADATA").write_bytes(b"")
  elif how == "no data position":
    shutil.rmtree(step_directory / "source")


@pytest.mark.parametrize(
  "how", ["truncated data", "missing data", "empty metadata", "no data position"]
)
def test_damaged_checkpoint_is_named_and_skipped(config, whole, begun, capsys, how):
  tear(begun / "checkpoints" / "4", how)
  resumed = loop.train(config, begun)
  said = capsys.readouterr().err
  assert f"{begun / 'checkpoints' / '4'} is damaged" in said
  assert "lm: step 2 of 6" in said
  assert (begun / "checkpoints.damaged" / "4").is_dir()
  assert_equal(whole, resumed)


def test_all_checkpoints_damaged_begins_anew(config, whole, begun):
  for step in (begun / "checkpoints").iterdir():
    tear(step, "truncated data")
  assert_equal(whole, loop.train(config, begun))
  assert {step.name for step in (begun / "checkpoints.damaged").iterdir()} == {"2", "4"}


def test_checkpoint_of_another_model_is_refused_and_kept(config, begun):
  config.model.width = 64
  with pytest.raises(UserError, match="of another model or optimiser"):
    loop.train(config, begun)
  assert {step.name for step in (begun / "checkpoints").iterdir()} == {"2", "4"}


def test_sigterm_saves_and_the_same_command_goes_on(data, tmp_path):
  arguments = train_arguments(
    data, tmp_path, "--config.train.steps=100000", "--config.train.save_every=100000",
    "--config.train.log_every=1",
  )  # fmt: skip
  process = start(arguments)
  assert process.stderr
  for line in process.stderr:
    if line.startswith("step 5/"):
      break
  process.send_signal(signal.SIGTERM)
  said = process.stderr.read()
  assert process.wait(60) == 75, said  # "try again": schedulers start it anew
  assert "told to stop (SIGTERM); saved" in said and "Traceback" not in said
  saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert saved >= 5
  position = json.loads((tmp_path / "checkpoints" / str(saved) / "source" / "metadata").read_text())
  assert position == {"position": saved}
  again = start([*arguments, f"--config.train.steps={saved + 2}"])
  _, said = again.communicate(timeout=120)
  assert again.returncode == 0 and f"lm: step {saved} of {saved + 2}" in said


def test_full_disk_leaves_the_last_good_checkpoint(config, whole, data, begun, capsys):
  def no_room():  # a file may not grow: what the writer sees is an error, as of a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Room for what caches are tried with, not for a checkpoint.
    resource.setrlimit(resource.RLIMIT_FSIZE, (18_000, resource.RLIM_INFINITY))

  more = ("--config.train.steps=6", "--config.train.save_every=2", "--config.train.ema_decay=0.9")
  no_cache = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
  full = start(train_arguments(data, begun, *more), preexec_fn=no_room, env=no_cache)
  _, said = full.communicate(timeout=120)
  assert full.returncode == 2, said
  # Threads of the writer may complain before or after it, so it need not be the last line.
  (error,) = [line for line in said.splitlines() if line.startswith("train: error: ")]
  assert "the last good checkpoint is step 4" in error
  assert_equal(whole, loop.train(config, begun))
  assert "lm: step 4 of 6" in capsys.readouterr().err


KILLS = 20


def kill_again_and_again(draw, arguments_of, steps_at_most: int) -> None:
  """Starts a run KILLS times and kills it each time: a quarter of them before their first step.

  The others die up to `steps_at_most` steps after their first one, anywhere between two steps; a
  run of KILLS * (steps_at_most + 1) steps never ends before it is killed.

  Args:
    draw: random numbers.
    arguments_of: attempt -> (arguments of the run, devices).
    steps_at_most: at least 1.
  """
  startup = 1.0
  for attempt in range(KILLS):
    arguments, devices = arguments_of(attempt)
    began = time.monotonic()
    process = start(arguments, devices)
    assert process.stderr
    if attempt % 4 == 3:
      time.sleep(draw.uniform(0.0, startup))
    else:
      said = (line for line in process.stderr if line.startswith("step "))
      next(said)
      first, steps = time.monotonic(), draw.randint(1, steps_at_most)
      startup = first - began
      for _ in range(steps):
        next(said)
      time.sleep(draw.uniform(0.0, (time.monotonic() - first) / steps))
    assert process.poll() is None, f"attempt {attempt} ended before it was killed"
    process.kill()
    process.communicate()


@pytest.mark.long
def test_killed_twenty_times_equals_uninterrupted(data, tmp_path):
  more = ("--config.train.steps=400", "--config.train.save_every=10", "--config.train.log_every=1")
  whole = start(train_arguments(data, tmp_path / "whole", *more))
  _, said = whole.communicate(timeout=180)
  assert whole.returncode == 0, said
  arguments = train_arguments(data, tmp_path / "killed", *more)
  kill_again_and_again(random.Random(0), lambda attempt: (arguments, 1), steps_at_most=19)
  last = start(arguments)
  _, said = last.communicate(timeout=180)
  assert last.returncode == 0, said
  assert_equal(load_params(tmp_path / "whole"), load_params(tmp_path / "killed"))


MESHES = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))


@pytest.mark.long
def test_killed_and_resumed_on_other_meshes_ends_as_one_device_does(data, tmp_path):
  # Rounding differs from mesh to mesh: Adam's epsilon lies above it, as in test_multihost.py.
  more = (
    "--config.train.steps=80", "--config.train.save_every=2", "--config.train.log_every=1",
    "--config.optimizer.eps=1e-2",
  )  # fmt: skip

  def arguments_of(attempt):
    sizes = MESHES[attempt % len(MESHES)]
    mesh = (f"--config.mesh.{axis}={n}" for axis, n in zip(sharding.MESH_AXES, sizes, strict=True))
    return train_arguments(data, tmp_path / "killed", *more, *mesh), math.prod(sizes)

  whole = start(train_arguments(data, tmp_path / "whole", *more))
  _, said = whole.communicate(timeout=180)
  assert whole.returncode == 0, said
  kill_again_and_again(random.Random(1), arguments_of, steps_at_most=3)
  arguments, devices = arguments_of(3)
  last = start(arguments, devices)
  _, said = last.communicate(timeout=180)
  assert last.returncode == 0, said
  (a, step_a), (b, step_b) = (load_params(tmp_path / name) for name in ("whole", "killed"))
  assert step_a == step_b == 80
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)
