"""--help says what there is, from the pages themselves, and does not wait for JAX."""

import pathlib
import subprocess
import sys

import pytest

from melody_jax import cli
from melody_jax.command_line import help_page
from melody_jax.errors import UserError
from melody_jax.places import config_pages
from melody_jax.provenance import VERSION
from tests.test_wrong_inputs import COMMANDS

PAGES = sorted(p.stem for p in pathlib.Path(__file__).parents[2].glob("configs/*.py"))


@pytest.fixture
def told(monkeypatch, capsys, repository):
  """Runs a command in this process with arguments; returns what it printed."""

  def run(command: str, *arguments: str) -> str:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    main, options = COMMANDS[command]
    cli.run(main, **options)
    done = capsys.readouterr()
    assert not done.err
    return done.out

  return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(told, command, flag):
  page = told(command, flag)
  assert f"melody_jax.{command} --config=configs/" in page
  assert ("--workdir=" in page) == (command in ("train", "export"))
  if command not in ("train", "export"):
    assert "--config.seed=0" in page or "--config.shards=8" in page or "--config.train." in page


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_version(told, command):
  assert told(command, "--version") == f"melody_jax {VERSION}\n"


@pytest.mark.parametrize("name", PAGES)
def test_every_key_of_every_preset_has_a_meaning(name, repository, monkeypatch):
  monkeypatch.chdir(repository)
  path = pathlib.Path("configs") / f"{name}.py"
  for preset in help_page.presets(config_pages.module_of(path)) or (None,):
    lines = [line for line in help_page.keys_of(path, preset) if line.startswith("  --config.")]
    assert len(lines) > 5
    for line in lines:
      key, _, meaning = line.strip().partition("  " if "\n" not in line else "\n")
      assert meaning.strip(), f"{path}:{preset}: no comment says what {key} means"


def test_presets_and_flags_are_shown(told):
  page = told("train", "--config=configs/lm.py:tiny", "--help")
  assert "one of paper, nano, tiny\nShown: tiny" in page
  assert "--config.model.width=32 " in page and "Model width D." in page
  assert "checkpoints kept" in page
  assert "--config=configs/evaluate.py:NAME, NAME one of codec, tokens" in told("evaluate", "-h")


def test_a_flag_that_takes_a_value_is_told_from_one_that_takes_none():
  lines = help_page.page("plan", "", "", {"out": "JSON."}, {"search": "Try."}).splitlines()
  assert "  --out=...   JSON." in lines and "  --search   Try." in lines


def test_a_wrong_page_or_preset_is_told(repository, monkeypatch):
  monkeypatch.chdir(repository)
  with pytest.raises(UserError, match="no config file 'configs/ml.py'"):
    help_page.page("train", "", "configs/ml.py", {}, {})
  with pytest.raises(UserError, match="did you mean 'nano'"):
    help_page.page("train", "", "configs/lm.py:nanno", {}, {})


def test_comments_of_a_page():
  source = """
# Not of a key.

def get_config():
  # Two lines
  # of one text.
  c.a = 1
  c.b.c = 2  # behind it
  c.d = dict(
    e=3,  # inside
  )
  c.f = 4
"""
  assert help_page.comments(source) == {
    "a": "Two lines of one text.",
    "b.c": "behind it",
    "d.e": "inside",
  }


def test_no_command_waits_for_jax(repository):
  code = (
    "import sys\n"
    f"import melody_jax\nfrom melody_jax import {', '.join(COMMANDS)}\n"
    "print(*[m for m in ('jax', 'flax', 'librosa', 'tensorflow') if m in sys.modules])"
  )
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == ""
