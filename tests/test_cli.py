"""The command line: one clear line for what is wrong, naming the nearest valid key."""

import subprocess
import sys

import pytest

from melody_jax import cli
from melody_jax.command_line.endings import EXIT_BAD_INPUT
from melody_jax.errors import UserError

CONFIG = """
import ml_collections
def get_config(preset="a"):
  c = ml_collections.ConfigDict()
  c.prompt, c.steps, c.preset = "x", 3, preset
  c.model = ml_collections.ConfigDict({"width": 2})
  return c
"""


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "c.py"
  path.write_text(CONFIG)
  return path


def test_values_and_argument(config_file):
  config, workdir = cli.parse(
    ["p", f"--config={config_file}:b", "--config.steps=7", "--config.model.width=4", "--workdir=w"]
  )
  assert (config.preset, config.steps, config.model.width, workdir) == ("b", 7, 4, "w")


@pytest.mark.parametrize(
  "argument, message",
  [
    ("--config.promt=hi", "'promt': did you mean 'prompt'"),
    ("--config.model.widht=3", "'widht': did you mean 'width'"),
    ("--config.steps=many", "steps"),
    ("--confg.steps=1", "confg"),
    ("stray", "unexpected argument 'stray'"),
  ],
)
def test_bad_arguments(config_file, argument, message):
  with pytest.raises(UserError, match=message):
    cli.parse(["p", f"--config={config_file}", argument])


def test_missing_files_and_workdir(config_file, tmp_path):
  with pytest.raises(UserError, match="no config file"):
    cli.parse(["p", f"--config={tmp_path}/nope.py"])
  with pytest.raises(UserError, match="--config=FILE is missing"):
    cli.parse(["p"])
  with pytest.raises(UserError, match="--workdir=DIR is missing"):
    cli.parse(["p", f"--config={config_file}"], needs_workdir=True)


def test_a_command_ends_with_one_line_and_status_2(config_file):
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "melody_jax.train",
      f"--config={config_file}",
      "--config.stesp=1",
      "--workdir=w",
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == EXIT_BAD_INPUT
  assert done.stderr.count("\n") == 1
  assert "did you mean 'steps'" in done.stderr
