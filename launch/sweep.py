"""Expands a sweep into runs, one a line: its name, its module, its arguments, quoted for a shell.

    python launch/sweep.py NAME DIR [--config.key=value ...]
    python launch/sweep.py list

A sweep is configs/sweeps/NAME.py with

    CONFIG = "configs/lm.py:nano"         the base config, with its argument
    MODULE = "melody_jax.train"           what runs it
    OUTPUT = "--workdir"                  the argument that says where a run writes
    get_sweep() -> list[dict[str, Any]]   the runs: values of config keys
"""

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
  """One line: what is wrong with a sweep or its name."""


def _module(path: pathlib.Path) -> ModuleType:
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def names() -> list[str]:
  """The sweeps of configs/sweeps."""
  return sorted(p.stem for p in SWEEPS.glob("*.py"))


def load(name: str) -> ModuleType:
  """The sweep `name`; SweepError if there is none."""
  if name not in names():
    raise SweepError(f"no sweep {name!r}: {', '.join(names())}")
  return _module(SWEEPS / f"{name}.py")


def base_config(sweep: ModuleType) -> ml_collections.ConfigDict:
  """The config that the runs of `sweep` change."""
  path, _, argument = sweep.CONFIG.partition(":")
  return _module(ROOT / path).get_config(*([argument] if argument else []))


def check(sweep: ModuleType) -> None:
  """SweepError unless every run sets keys that the base config has, to values of their kind."""
  for run in sweep.get_sweep():
    config = base_config(sweep).lock()
    try:
      config.update_from_flattened_dict(run)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      reason = str(error).splitlines()[0]
      raise SweepError(f"{sweep.__name__}: {run} does not fit {sweep.CONFIG}: {reason}") from error


def run_name(run: dict[str, Any]) -> str:
  """What differs, as a directory: learning_rate=0.001,width=256."""
  short = [key.rsplit(".", 1)[-1] for key in run]
  keys = short if len(set(short)) == len(short) else list(run)
  text = ",".join(f"{key}={value}" for key, value in zip(keys, run.values()))
  return re.sub(r"[^\w.,=+-]+", "_", text)


def expand(sweep: ModuleType, directory: str, more: list[str]) -> list[list[str]]:
  """The words of every run: its name, its module, its arguments.

  Raises:
    SweepError: two runs are alike, or one does not fit the config.
  """
  check(sweep)
  runs, seen = [], set()
  for i, run in enumerate(sweep.get_sweep()):
    where = "/".join([directory.rstrip("/"), sweep.__name__, run_name(run)])
    if where in seen:
      raise SweepError(f"{sweep.__name__}: two runs are {run_name(run)}")
    seen.add(where)
    # Kubernetes takes small letters, digits and dashes.
    name = f"{sweep.__name__.replace('_', '-')}-{i}"
    values = [f"--config.{key}={value}" for key, value in run.items()]
    output = f"{sweep.OUTPUT}={where}"
    runs.append([name, sweep.MODULE, f"--config={sweep.CONFIG}", output, *values, *more])
  return runs


def main(arguments: list[str]) -> None:
  """Prints what the command line asks for."""
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
  try:
    main(sys.argv[1:])
  except SweepError as e:
    print(f"sweep.py: error: {e}", file=sys.stderr)
    raise SystemExit(2) from e
