"""Expands a sweep into runs, one per line: name, module and arguments, quoted for a shell.

    python launch/sweep.py NAME[:PRESET] DIR [--config.key=value ...]            all runs
    python launch/sweep.py pending NAME[:PRESET] DIR [--config.key=value ...]    those not finished
    python launch/sweep.py gather NAME[:PRESET] DIR                              a table and a plot
    python launch/sweep.py list

A sweep is a file configs/sweeps/NAME.py with

    CONFIG = "configs/dpd.py"             page that the runs change: of training or of evaluation
    SEEDS = {"nano": 3, "paper": 1}       its presets, the default first; runs of each setting
    METRICS = {"loss": ("metrics", "loss")}   what `gather` takes from a result: {title: keys}
    get_sweep(preset) -> list[dict[str, Any]]   one dict a setting: {config key: value}
    BASE = {"short": "nano"}              optional: the config's preset, where its name is another
    RECIPE = {"short": {"train.steps": 60}}    optional: what all runs of a preset have in common

Runs that differ by `seed` alone are one row of the table: their mean and spread. All settings run
with one seed before the next one begins: a sweep that is cut short has every row, of fewer seeds.
"""

from collections.abc import Mapping
import csv
import dataclasses
import difflib
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex
import statistics
import sys
from types import ModuleType
from typing import Any

import ml_collections

ROOT = pathlib.Path(__file__).resolve().parents[1]
SWEEPS = ROOT / "configs" / "sweeps"
_COMMAND = "command.json"  # beside a run's result: module and arguments that were to make it


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


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A sweep at one of its presets.

  Attributes:
    name: Name of its directory and of its jobs.
    config: Base config, with its preset.
    runs: Values of config keys, one dict a run.
    recipe: Values of config keys that all runs have; not part of their names.
    metrics: What `gather` takes from a result, {title: keys}.
  """

  name: str
  config: str
  runs: list[dict[str, Any]]
  metrics: Mapping[str, tuple[str, ...]]
  recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def evaluates(self) -> bool:
    """Whether its runs are evaluations; else they train."""
    return pathlib.PurePath(self.config.partition(":")[0]).stem == "evaluate"

  @property
  def module(self) -> str:
    """Module that runs it."""
    return "melody_jax.evaluate" if self.evaluates else "melody_jax.train"

  @property
  def output(self) -> str:
    """Argument that says where a run writes."""
    return "--config.out" if self.evaluates else "--workdir"

  @property
  def result(self) -> str:
    """File that a finished run leaves there."""
    return f"{self.config.partition(':')[2]}.json" if self.evaluates else "result.json"


def _page(name: str) -> ModuleType:
  if name not in names():
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SweepError(f"no sweep {name!r}: {', '.join(names())}{hint}")
  page = _module(SWEEPS / f"{name}.py")
  parts = ("CONFIG", "SEEDS", "METRICS", "get_sweep")
  missing = [part for part in parts if not hasattr(page, part)]
  if missing:
    raise SweepError(f"{SWEEPS / name}.py lacks {', '.join(missing)}: see the head of sweep.py")
  return page


def presets(name: str) -> tuple[str, ...]:
  """Presets of a sweep, the default first.

  Raises:
    SweepError: as `load`.
  """
  return tuple(_page(name).SEEDS)


def load(named: str) -> Sweep:
  """Loads a sweep.

  Args:
    named: NAME or NAME:PRESET.

  Raises:
    SweepError: if there is no such sweep or preset.
  """
  name, _, preset = named.partition(":")
  page = _page(name)
  default = next(iter(page.SEEDS))
  preset = preset or default
  if preset not in page.SEEDS:
    raise SweepError(f"sweep {name!r} has no preset {preset!r}: {', '.join(page.SEEDS)}")
  seeds = range(page.SEEDS[preset])
  settings = page.get_sweep(preset)
  return Sweep(
    name=name if preset == default else f"{name}_{preset}",
    config=f"{page.CONFIG}:{getattr(page, 'BASE', {}).get(preset, preset)}",
    # With one run a setting, the seed stays the config's own.
    runs=[{**s, "seed": seed} for seed in seeds for s in settings] if len(seeds) > 1 else settings,
    metrics=page.METRICS,
    recipe=getattr(page, "RECIPE", {}).get(preset, {}),
  )


def base_config(sweep: Sweep) -> ml_collections.ConfigDict:
  """The config that the runs of a sweep change."""
  path, _, preset = sweep.config.partition(":")
  return _module(ROOT / path).get_config(preset)


def check(sweep: Sweep) -> None:
  """Checks that all runs set keys of the base config, to values of the right type.

  Raises:
    SweepError: if one does not.
  """
  for run in sweep.runs:
    # A new config for every run, or the keys of one run would stay set in the next. Locked, because
    # an open config takes any misspelt key.
    config = base_config(sweep).lock()
    try:
      config.update_from_flattened_dict({**sweep.recipe, **run})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      reason = str(error).splitlines()[0]
      raise SweepError(f"{sweep.name}: {run} does not fit {sweep.config}: {reason}") from error


def _check_more(sweep: Sweep, more: list[str]) -> None:
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


def expand(sweep: Sweep, directory: str, more: list[str]) -> list[list[str]]:
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
  for i, run in enumerate(sweep.runs):
    where = "/".join([directory.rstrip("/"), sweep.name, run_name(run)])
    if where in seen:
      raise SweepError(f"{sweep.name}: two runs are {run_name(run)}")
    seen.add(where)
    # Kubernetes allows only small letters, digits and dashes in a name.
    name = f"{sweep.name.replace('_', '-')}-{i}"
    values = [f"--config.{key}={value}" for key, value in {**sweep.recipe, **run}.items()]
    output = f"{sweep.output}={where}"
    runs.append([name, sweep.module, f"--config={sweep.config}", output, *values, *more])
  return runs


def _where(words: list[str], sweep: Sweep) -> pathlib.Path | None:
  """Directory of a run, or None where it is in a bucket."""
  (found,) = (w.split("=", 1)[1] for w in words if w.startswith(f"{sweep.output}="))
  return None if "://" in found else pathlib.Path(found).expanduser()


def _read(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return None


def is_finished(words: list[str], sweep: Sweep) -> bool:
  """Whether a run has left its result, made by this very command.

  A run in a bucket never counts as finished: it is started again, and a training run then ends at
  once.

  Raises:
    SweepError: if another command made the result.
  """
  where = _where(words, sweep)
  if where is None or _read(where / sweep.result) is None:
    return False
  made_by = _read(where / _COMMAND)
  if made_by is not None and made_by != words[1:]:
    before, now = (set(map(str, w)) for w in (made_by, words[1:]))
    differing = ", ".join(sorted(before ^ now))
    raise SweepError(f"{where} was finished by another command ({differing}): give another DIR")
  return made_by is not None


def pending(sweep: Sweep, directory: str, more: list[str]) -> list[list[str]]:
  """The runs of `expand` that are not finished; each notes its command in its directory.

  Raises:
    SweepError: as `expand`, or if a finished run was made by another command.
  """
  left = [words for words in expand(sweep, directory, more) if not is_finished(words, sweep)]
  for words in left:
    where = _where(words, sweep)
    if where is not None:
      where.mkdir(parents=True, exist_ok=True)
      (where / _COMMAND).write_text(json.dumps(words[1:], indent=2) + "\n", encoding="utf-8")
  return left


def _number(result: Any, keys: tuple[str, ...]) -> float | None:
  for key in keys:
    result = result.get(key) if isinstance(result, dict) else None
  return float(result) if isinstance(result, int | float) else None


def rows_of(sweep: Sweep, directory: str) -> tuple[list[dict[str, Any]], list[str]]:
  """Results of a sweep.

  Args:
    sweep: The sweep.
    directory: Directory that its runs were started in.

  Returns:
    (one row a setting: its keys, "runs", and "TITLE" and "TITLE spread" of every metric, the mean
    and standard deviation over seeds; names of the runs without a result).
  """
  groups: dict[str, dict[str, Any]] = {}
  missing = []
  for run in sweep.runs:
    settings = {key: value for key, value in run.items() if key != "seed"}
    row = groups.setdefault(json.dumps(settings), {**settings, "results": []})
    result = _read(pathlib.Path(directory).expanduser() / sweep.name / run_name(run) / sweep.result)
    if result is None:
      missing.append(run_name(run))
    else:
      row["results"].append(result)
  for row in groups.values():
    results = row.pop("results")
    row["runs"] = len(results)
    for title, keys in sweep.metrics.items():
      values = [v for v in (_number(result, keys) for result in results) if v is not None]
      row[title] = statistics.fmean(values) if values else None
      # Of one run there is no spread, which is not the same as none at all.
      row[f"{title} spread"] = statistics.stdev(values) if len(values) > 1 else None
  return list(groups.values()), missing


def _shown(value: Any) -> str:
  return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _plot(sweep: Sweep, rows: list[dict[str, Any]]) -> bytes:
  """One panel a metric, a bar a setting with its spread."""
  from matplotlib.figure import Figure

  titles = list(sweep.metrics)
  settings = [key for key in rows[0] if "." in key]
  # What all runs share tells nothing.
  telling = [key for key in settings if len({str(row[key]) for row in rows}) > 1] or settings
  names = [", ".join(f"{k.rsplit('.', 1)[-1]} {_shown(row[k])}" for k in telling) for row in rows]
  size = (4.5 * len(titles) + 2, 0.4 * len(rows) + 1.5)
  figure = Figure(figsize=size, dpi=110, layout="constrained")
  for i, title in enumerate(titles):
    axes = figure.add_subplot(1, len(titles), i + 1)
    for y, row in enumerate(rows):
      if row[title] is not None:
        axes.errorbar(
          row[title], y, xerr=row[f"{title} spread"] or 0, fmt="o", color="#1d4ed8", capsize=3
        )
    axes.set(title=title, ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
    axes.set_yticklabels(names if i == 0 else [], fontsize=8)
    axes.grid(axis="x", alpha=0.3)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  return buffer.getvalue()


def gather(sweep: Sweep, directory: str) -> list[str]:
  """Writes results.md, .csv and .png into the directory of a sweep, and prints the table.

  Returns:
    Names of the runs without a result.

  Raises:
    SweepError: if no run has one.
  """
  rows, missing = rows_of(sweep, directory)
  if not any(row["runs"] for row in rows):
    raise SweepError(f"{directory}/{sweep.name} has no finished run")
  columns = list(rows[0])
  lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
  lines += [f"| {' | '.join(_shown(row[c]) for c in columns)} |" for row in rows]
  lines += ["", f"Without a result: {', '.join(missing)}."] if missing else []
  text = "\n".join(lines)
  buffer = io.StringIO()
  writer = csv.DictWriter(buffer, columns)
  writer.writeheader()
  writer.writerows(rows)
  folder = pathlib.Path(directory).expanduser() / sweep.name
  (folder / "results.md").write_text(text + "\n", encoding="utf-8")
  (folder / "results.csv").write_text(buffer.getvalue(), encoding="utf-8")
  (folder / "results.png").write_bytes(_plot(sweep, rows))
  print(text)
  return missing


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
      about = (_page(name).__doc__ or "").splitlines()[0]
      print(f"{name:20} {about} [{', '.join(presets(name))}]")
    return
  verb = arguments.pop(0) if arguments and arguments[0] in ("pending", "gather") else ""
  if len(arguments) < 2:
    raise SweepError("a sweep and a directory are needed")
  if verb == "gather":
    if missing := gather(load(arguments[0]), arguments[1]):
      raise SweepError(f"{len(missing)} runs have no result: {', '.join(missing)}")
    return
  runs = (pending if verb else expand)(load(arguments[0]), arguments[1], arguments[2:])
  for words in runs:
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
