"""Expands a sweep into runs, one per line: name, module and arguments, quoted for a shell.

    python launch/sweep.py NAME DIR [--config.key=value ...]
    python launch/sweep.py list

A sweep is a file configs/sweeps/NAME.py with

    CONFIG = "configs/lm.py:nano"         base config, with its argument
    MODULE = "melody_jax.train"           module that runs it
    OUTPUT = "--workdir"                  argument that says where a run writes
    get_sweep() -> list[dict[str, Any]]   one dict per run: {config key: value}
"""

import difflib
import importlib.util
import os
import pathlib
import re
import shlex
import sys
from types import ModuleType
from typing import Any

import ml_collections

ROOT = pathlib.Path(__file__).resolve().parents[1]
SWEEPS = ROOT / "configs" / "sweeps"


class SweepError(Exception):
  """A mistake in a sweep or its name, as one line for the user."""


def _module(path: pathlib.Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def names() -> list[str]:
  """Names of the sweeps in configs/sweeps."""
  return sorted(p.stem for p in SWEEPS.glob("*.py"))


def load(name: str) -> ModuleType:
  """Loads a sweep.

  Raises:
    SweepError: if there is no sweep of this name.
  """
  if name not in names():
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SweepError(f"no sweep {name!r}: {', '.join(names())}{hint}")
  sweep = _module(SWEEPS / f"{name}.py")
  missing = [
    part for part in ("CONFIG", "MODULE", "OUTPUT", "get_sweep") if not hasattr(sweep, part)
  ]
  if missing:
    raise SweepError(f"{SWEEPS / name}.py lacks {', '.join(missing)}: see the head of sweep.py")
  return sweep


def base_config(sweep: ModuleType) -> ml_collections.ConfigDict:
  """The config that the runs of a sweep change."""
  path, _, argument = sweep.CONFIG.partition(":")
  return _module(ROOT / path).get_config(*([argument] if argument else []))


def check(sweep: ModuleType) -> None:
  """Checks that all runs set keys of the base config, to values of the right type.

  Raises:
    SweepError: if one does not.
  """
  for run in sweep.get_sweep():
    # A new config for every run, or the keys of one run would stay set in the next. Locked, because
    # an open config takes any misspelt key.
    config = base_config(sweep).lock()
    try:
      config.update_from_flattened_dict(run)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      reason = str(error).splitlines()[0]
      raise SweepError(f"{sweep.__name__}: {run} does not fit {sweep.CONFIG}: {reason}") from error


def _check_more(sweep: ModuleType, more: list[str]) -> None:
  """Raises SweepError for an argument for all runs that none of them takes."""
  from melody_jax import cli
  from melody_jax.errors import UserError

  stray = [argument for argument in more if not argument.startswith("--")]
  if stray:
    raise SweepError(f"unexpected argument {stray[0]!r}: options are --config.key=value")
  try:
    cli.check_keys(["", *more], base_config(sweep))
  except UserError as error:
    raise SweepError(str(error)) from error


def run_name(run: dict[str, Any]) -> str:
  """Name of a run by its settings, fit for a directory: learning_rate=0.001,width=256."""
  short = [key.rsplit(".", 1)[-1] for key in run]
  # Last parts of the keys, as long as they tell the runs apart.
  keys = short if len(set(short)) == len(short) else list(run)
  text = ",".join(f"{key}={value}" for key, value in zip(keys, run.values()))
  return re.sub(r"[^\w.,=+-]+", "_", text)


def expand(sweep: ModuleType, directory: str, more: list[str]) -> list[list[str]]:
  """Expands a sweep.

  Args:
    sweep: The sweep, see `load`.
    directory: Directory in which every run gets its own directory.
    more: Further arguments for all runs.

  Returns:
    For every run its words: name, module and arguments.

  Raises:
    SweepError: if two runs are alike, or one does not fit the config.
  """
  check(sweep)
  _check_more(sweep, more)
  runs, seen = [], set()
  for i, run in enumerate(sweep.get_sweep()):
    where = "/".join([directory.rstrip("/"), sweep.__name__, run_name(run)])
    if where in seen:
      raise SweepError(f"{sweep.__name__}: two runs are {run_name(run)}")
    seen.add(where)
    # Kubernetes allows only small letters, digits and dashes in a name.
    name = f"{sweep.__name__.replace('_', '-')}-{i}"
    values = [f"--config.{key}={value}" for key, value in run.items()]
    output = f"{sweep.OUTPUT}={where}"
    runs.append([name, sweep.MODULE, f"--config={sweep.CONFIG}", output, *values, *more])
  return runs


def main(arguments: list[str]) -> None:
  """Prints what the command line asks for."""
  if {"--help", "-h"} & set(arguments):
    print(__doc__.strip())
    return
  if "--version" in arguments:
    from melody_jax.provenance import VERSION

    print(f"melody_jax {VERSION}")
    return
  if arguments == ["list"]:
    for name in names():
      print(f"{name:20} {(load(name).__doc__ or '').splitlines()[0]}")
    return
  if len(arguments) < 2:
    raise SweepError("a sweep and a directory are needed")
  for words in expand(load(arguments[0]), arguments[1], arguments[2:]):
    print(shlex.join(words))


if __name__ == "__main__":
  sys.path.insert(0, os.fspath(ROOT))  # a config imports from melody_jax
  from melody_jax.command_line.endings import fail, one_line
  from melody_jax.command_line.streams import check_stdout

  with one_line("sweep.py"):
    try:
      check_stdout("the list of runs")
      main(sys.argv[1:])
    except SweepError as e:
      fail("sweep.py", str(e))
