"""What a long run needs: checkpoints that are kept, profiles, programs compiled once."""

import os
import re

import jax
import pytest

from melody_jax import bundle
from melody_jax.config import check_training
from melody_jax.errors import UserError
from melody_jax.export import export
from melody_jax.generation import programs
from melody_jax.training import loop
from melody_jax.training.checkpoint import load_params
from tests.configs import load_config
from tests.training.processes import write_token_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_token_dataset(tmp_path_factory.mktemp("tokens"), records=3)


@pytest.fixture
def config(data):
  c = load_config("lm", "tiny")
  c.data.path = str(data)
  c.train.update(steps=8, batch_size=2, save_every=2, keep=1, log_every=1, eval_every=1)
  c.train.eval_batches = 1
  c.optimizer.schedule = "constant"
  return c


def steps_in(workdir):
  return {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}


def measured(monkeypatch, values):
  """Lets the evaluation of step i, counted from 1, find values[i - 1]."""

  def evaluation(self, step):
    return {"loss": values[step - 1], "accuracy": -values[step - 1]}

  monkeypatch.setattr(loop._Run, "evaluation", evaluation)


@pytest.mark.parametrize(
  ("metric", "mode", "kept"),
  [("accuracy", "max", {3, 4, 8}), ("loss", "max", {4, 6, 8})],
)
def test_the_best_and_every_nth_checkpoint_are_kept_beside_the_last(
  config, tmp_path, monkeypatch, metric, mode, kept
):
  # Best at the odd step 3, at which no checkpoint was due; worst at 6; NaN is never best.
  measured(monkeypatch, [5.0, 4.0, 1.0, 2.0, float("nan"), 9.0, 3.0, 2.0])
  config.train.update(keep_every=4, best_metric=metric, best_mode=mode)
  check_training(config)
  first = config.copy_and_resolve_references()
  first.train.steps = 4  # a run that goes on remembers what was best
  loop.train(first, tmp_path)
  loop.train(config, tmp_path)
  assert steps_in(tmp_path) == kept
  (best,) = kept - {4, 8}
  config.export.bundle = str(tmp_path / "bundle")
  for checkpoint, step in (("last", 8), ("best", best)):
    config.export.checkpoint = checkpoint
    export(config, str(tmp_path))
    assert bundle.load(tmp_path / "bundle" / "lm.safetensors")[1]["step"] == step
  with pytest.raises(UserError, match="no checkpoint under .* was measured by .*'fad'"):
    load_params(tmp_path, ("fad", "min"))


def test_a_metric_that_no_evaluation_has_is_named(config, tmp_path):
  config.train.update(best_metric="fad", steps=1)
  with pytest.raises(UserError, match="best_metric is 'fad'; the evaluation has accuracy, loss"):
    loop.train(config, tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"profile": "5"}, "takes the first and the last step to record, as in 100:105"),
    ({"profile": "7:5"}, "as in 100:105"),
    ({"keep_every": 3}, "keep_every 3 must be a multiple of config.train.save_every 2"),
    ({"best_mode": "low"}, "best_mode.*one of min, max"),
    ({"best_metric": "loss", "eval_every": 0}, "config.train.eval_every is 0"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(config, changes, message):
  config.train.update(changes)
  with pytest.raises(UserError, match=message):
    check_training(config)


def test_a_profile_holds_the_steps_that_were_asked_for(config, tmp_path, capsys):
  config.train.update(steps=4, eval_every=0, profile="2:3")
  loop.train(config, tmp_path)
  assert f"step 3: profile written to {tmp_path / 'profile'}" in capsys.readouterr().err
  (trace,) = tmp_path.glob("profile/plugins/profile/*/*.xplane.pb")
  held = trace.read_bytes()
  assert b"train_step" in held
  # Beyond its range nothing is recorded.
  config.train.steps = 5
  loop.train(config, tmp_path)
  assert [trace] == list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))


def test_a_run_that_starts_again_compiles_nothing(config, tmp_path, monkeypatch, capsys):
  cache = tmp_path / "cache"
  config.train.update(steps=2, eval_every=2)
  seen = []
  jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
  before = {
    name: getattr(jax.config, name)
    for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
  }
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
  try:
    programs.use_compilation_cache(cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    runs = []
    for workdir in ("a", "b"):
      jax.clear_caches()
      jax.experimental.compilation_cache.compilation_cache.reset_cache()
      seen.clear()
      loop.train(config, tmp_path / workdir)
      runs.append((seen.count("/jax/compilation_cache/cache_hits"), set(os.listdir(cache))))
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
  (_, first), (hits, second) = runs
  programs_of = {name.split("-")[0] for name in first if name.endswith("-cache")}
  assert {"jit_train_step", "jit_eval_step"} <= programs_of
  assert second == first and hits >= 3
  assert len(re.findall(r"first step done [\d.]+ s after", capsys.readouterr().err)) == 2
