"""Every key of every config page, set to what it cannot be: one line or none, never a traceback.

The gate of each command runs in this process: what comes before data are read and programs are
compiled. Whether it refuses or accepts a value is told elsewhere; here nothing else may happen.
"""

import itertools

import pytest

from melody_jax import cli, encode, evaluate, export, fit, train
from melody_jax.config import TRAINING_RANGES, keys_of
from melody_jax.errors import UserError
from melody_jax.generation import prompt_list
from melody_jax.generation.config import Clips, check, requests_of, settings_of
from tests.configs import load_config


def _sample(config):
  config = prompt_list.with_seed(config)
  check(config)
  requests_of(config, Clips(None, None), prompt_list.pieces(config)), settings_of(config)


def _train(config):
  from melody_jax.task import make_task
  from melody_jax.training.loop import _FinitenessWatch

  train.check_training(config)
  make_task(config).input_features()
  _FinitenessWatch(config.train.on_nonfinite, "")


PAGES = {
  "sample": ("sample", None, _sample),
  "encode": ("encode", None, encode.main),
  "evaluate": ("evaluate", "codec", evaluate.evaluate),
  "fit": ("fit", "style_tiny", fit.fit),
  "export": ("vae", "tiny", lambda config: export.export(config, "no_run")),
} | {model: (model, "tiny", _train) for model in ("vae", "wav2vec", "mulan", "lm", "dpd")}
VALUES = (
  "0",
  "-1",
  "nan",
  "inf",
  "1e30",
  "99999999999999999999",
  "",
  " ",
  "bogus",
  "1,x",
  "2.5",
  "é",
)


def test_every_range_is_that_of_a_key_of_some_page():
  models = ("vae", "wav2vec", "mulan", "lm", "dpd")
  pages = [load_config(model, preset) for model in models for preset in ("paper", "nano")]
  assert set(TRAINING_RANGES) <= {key for page in pages for key, _ in keys_of(page)}


@pytest.mark.parametrize("command", PAGES)
def test_no_value_of_any_key_ends_in_a_traceback(command, repository, tmp_path, monkeypatch):
  page, preset, gate = PAGES[command]
  monkeypatch.chdir(tmp_path)
  (tmp_path / "src").mkdir()
  path = repository / "configs" / f"{page}.py"
  given = f"--config={path}" + (f":{preset}" if preset else "")
  usual = {
    "sample": ["--config.prompt=a"],
    "encode": ["--config.source=src", "--config.out=out"],
    "fit": ["--config.bundle=b"],
    "evaluate": ["--config.bundle=src"],
  }.get(command, [])
  refused = 0
  keys = dict(keys_of(load_config(page, *([preset] if preset else []))))
  for key, value in itertools.product(keys, VALUES):
    argv = [command, given, *usual, f"--config.{key}={value}"]
    try:
      config, _ = cli.parse(argv)
      gate(config)
    except UserError as error:
      refused += 1
      assert str(error).strip() and len(str(error)) < 600
    except Exception as error:
      pytest.fail(f"{argv[1:]}: {type(error).__name__}: {error}")
  assert refused > 50
