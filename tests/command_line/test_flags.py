"""Builders and benchmarks: one line for a wrong flag, --help and --version, no work before."""

import sys

import pytest

from benchmarks import sample, sru, stream, train_step
from melody_jax.command_line import flags, signals
from melody_jax.provenance import VERSION

BENCHMARKS = {"sample": sample, "sru": sru, "stream": stream, "train_step": train_step}


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
  """Runs a benchmark's command in this process; returns (status, output, errors)."""
  monkeypatch.chdir(tmp_path)

  def run(name, *arguments):
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *arguments])
    with pytest.raises(SystemExit) as end:
      flags.run(BENCHMARKS[name].main)
    return end.value.code, *capsys.readouterr()

  return run


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_and_version(call, name):
  status, page, errors = call(name, "--help")
  assert (status, errors) == (0, "") and "--version" in page
  assert call(name, "--version") == (0, f"melody_jax {VERSION}\n", "")


@pytest.mark.parametrize(
  ("name", "flag", "message"),
  [
    *((name, "--nonsense=1", "no flag --nonsense") for name in BENCHMARKS),
    ("sample", "--preset=smal", "invalid choice: 'smal'"),
    ("sample", "--batches=0", "one or more positive numbers"),
    ("sample", "--steps=x", "one or more positive numbers"),
    ("sample", "--repeats=0", "a whole number, 1 or more"),
    ("sample", "--baselines=musiclm", "--baselines: musiclm; known: cascade, musicgen"),
    ("sample", "--guidance_scale=nan", "--guidance_scale is nan"),
    ("sample", "--out=/proc/x/y", "cannot write /proc/x/y"),
    ("sample", "--dtype=float61", "invalid choice: 'float61'"),
    ("sru", "--rows=0", "a whole number, 1 or more"),
    ("stream", "--seconds=0", "--seconds is 0; it takes 1 or more"),
    ("stream", "--solver=euler", "invalid choice: 'euler'"),
    ("stream", "--out=x.txt", "must end in one of .json"),
    ("stream", "--checkpoint=nowhere", "no checkpoint at nowhere"),
    ("train_step", "--models=lm,vea", "did you mean 'vae'"),
    ("train_step", "--batch=-1", "a whole number, 1 or more"),
    ("train_step", "--out=no/x.json", "no does not exist"),
  ],
)
def test_one_line(call, name, flag, message):
  status, output, errors = call(name, flag)
  assert (status, output) == (2, "")
  assert errors.count("\n") == 1 and errors.startswith(f"{name}: error: ") and message in errors


@pytest.mark.parametrize(
  ("argv", "module"),
  [
    (["python", "-m", "melody_jax.sample", "--config.prompt=a"], "melody_jax.sample"),
    (["python", "-m", "benchmarks.sru"], "benchmarks.sru"),
    (["/venv/bin/python", "/venv/bin/melody-jax", "sample", "-m"], "melody_jax.sample"),
    (["/venv/bin/melody-jax", "--help"], "melody_jax.--help"),
    (["python", "-m", "pytest", "melody_jax"], ""),
    (["python", "mine.py"], ""),
  ],
)
def test_whose_interrupt_it_is(argv, module, monkeypatch):
  # A program that imports the package keeps its own ways with Ctrl-C.
  monkeypatch.setattr(sys, "orig_argv", argv)
  assert signals._module_that_runs() == module
