"""Expands a sweep into runs, one per line: name, module and arguments, quoted for a shell.

    python launch/sweep.py NAME[:PRESET] DIR [--config.key=value ...]            all runs
    python launch/sweep.py pending NAME[:PRESET] DIR [--config.key=value ...]    those not finished
    python launch/sweep.py run NAME[:PRESET] DIR [--config.key=value ...]        these, one by one
    python launch/sweep.py gather NAME[:PRESET] DIR [PAGE.md]                    a table and a plot
    python launch/sweep.py list

A sweep is a file configs/sweeps/NAME.py with

    CONFIG = "configs/dpd.py"             page that the runs change: of training or of evaluation
    SEEDS = {"nano": 3, "paper": 1}       its presets, the default first; runs of each setting
    METRICS = {"loss": ("metrics", "loss")}   what `gather` takes from a result: {title: keys}
    get_sweep(preset) -> list[dict[str, Any]]   one dict a setting: {config key: value}
    BASE = {"short": "nano"}              optional: the config's preset, where its name is another
    RECIPE = {"short": {"train.steps": 60}}    optional: what all runs of a preset have in common
    KIND = "denoiser"                     optional: what it does not say stands in kinds/denoiser.py

Runs that differ by `seed` alone are one row of the table: their mean and spread. All settings run
with one seed before the next one begins: a sweep that is cut short has every row, of fewer seeds.
`run` makes all runs of an evaluation in one process, which loads the models, compiles and measures
the reference once.
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


def _docs() -> ModuleType:
  return _module(ROOT / "launch" / "sweep_docs.py")


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
  if kind := getattr(page, "KIND", ""):
    shared = SWEEPS / "kinds" / f"{kind}.py"
    if not shared.is_file():
      raise SweepError(f"{SWEEPS / name}.py is of a kind that there is not: {shared}")
    vars(page).update({**vars(_module(shared)), **vars(page)})
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


def _where(words: list[str], sweep: Sweep) -> Any:
  """Directory of a run, on a disk or in a bucket."""
  (found,) = (w.split("=", 1)[1] for w in words if w.startswith(f"{sweep.output}="))
  return _folder(found)


def _folder(path: str) -> Any:
  if "://" not in path:
    return pathlib.Path(path).expanduser()
  # Late: on disks a sweep is expanded without what buckets need.
  from melody_jax.places import buckets

  return buckets.path_of(path)


def _read(path: Any) -> Any:
  """What a JSON file holds, or None where there is none.

  Raises:
    SweepError: if a bucket cannot be read. A run there is not to be taken for unfinished.
  """
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (FileNotFoundError, ValueError):
    return None
  except Exception as error:  # each file system behind a bucket raises its own kinds
    if "://" not in str(path):
      return None
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise SweepError(f"cannot read {path}: {reason}") from error


def is_finished(words: list[str], sweep: Sweep) -> bool:
  """Whether a run has left its result, on a disk or in a bucket, made by this very command.

  Raises:
    SweepError: if another command made the result.
  """
  where = _where(words, sweep)
  if _read(where / sweep.result) is None:
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
    _note_command(_where(words, sweep) / _COMMAND, words)
  return left


def _note_command(path: Any, words: list[str]) -> None:
  text = json.dumps(words[1:], indent=2) + "\n"
  if "://" in str(path):
    from melody_jax.errors import UserError
    from melody_jax.places import buckets

    try:
      buckets.write_all({path: text.encode()})
    except UserError as error:
      raise SweepError(str(error)) from error
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")


def run(sweep: Sweep, directory: str, more: list[str]) -> list[str]:
  """Makes the unfinished runs of an evaluation in this process, one by one.

  Args:
    sweep: The sweep.
    directory: Directory in which every run gets its own directory.
    more: Further arguments for all runs.

  Returns:
    "NAME (why)" of each run that failed; the others were made all the same.

  Raises:
    SweepError: as `pending`, or if the sweep trains, which takes a process a run.
  """
  if not sweep.evaluates:
    raise SweepError(f"{sweep.name} trains: launch/sweep.sh starts a process for each run")
  from melody_jax import cli, evaluate

  failed = []
  left = pending(sweep, directory, more)
  for i, words in enumerate(left, 1):
    print(f"== {words[0]} ({i} of {len(left)})", file=sys.stderr, flush=True)
    try:
      config, _ = cli.parse(["sweep.py", *words[2:]])
      evaluate.evaluate(config)
    except Exception as error:  # one failure must not cost the others their numbers
      reason = " ".join(str(error).split())[:300] or type(error).__name__
      print(f"{words[0]}: {reason}", file=sys.stderr, flush=True)
      failed.append(f"{words[0]} ({reason})")
  return failed


def _number(result: Any, keys: tuple[str, ...]) -> float | None:
  for key in keys:
    result = result.get(key) if isinstance(result, dict) else None
  return float(result) if isinstance(result, int | float) else None


def results_of(sweep: Sweep, directory: str) -> dict[str, Any]:
  """{name of a run: its result} of the runs that have one."""
  folder = _folder(directory) / sweep.name
  names_of_runs = [run_name(run) for run in sweep.runs]
  found = {name: _read(folder / name / sweep.result) for name in names_of_runs}
  return {name: result for name, result in found.items() if result is not None}


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
  found = results_of(sweep, directory)
  missing = []
  for run in sweep.runs:
    settings = {key: value for key, value in run.items() if key != "seed"}
    row = groups.setdefault(json.dumps(settings), {**settings, "results": []})
    if run_name(run) in found:
      row["results"].append(found[run_name(run)])
    else:
      missing.append(run_name(run))
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
  folder = _folder(directory) / sweep.name
  (folder / "results.md").write_bytes(f"{text}\n".encode())
  (folder / "results.csv").write_bytes(buffer.getvalue().encode())
  (folder / "results.png").write_bytes(_docs().plot(rows, list(sweep.metrics)))
  print(text)
  return missing


def publish(sweep: Sweep, directory: str, page: str) -> None:
  """Writes what `gather` found into a page of the docs; see sweep_docs.py.

  Raises:
    SweepError: if the page is missing or has no place for the sweep.
  """
  docs = _docs()
  path = pathlib.Path(page)
  rows, _ = rows_of(sweep, directory)
  results = results_of(sweep, directory)
  folder = docs.folder_of(path)
  told = docs.made_from(list(results.values()), sweep.metrics)
  picture = f"![{sweep.name}]({folder.name}/{sweep.name}.png)"
  text = "\n\n".join((docs.table(rows, list(sweep.metrics)), picture, told))
  try:
    filled = docs.fill(path.read_text(encoding="utf-8"), sweep.name, text)
  except (OSError, docs.NoPlace) as error:
    raise SweepError(f"{page}: {error}") from error
  folder.mkdir(exist_ok=True)
  for suffix in ("csv", "png"):
    made = _folder(directory) / sweep.name / f"results.{suffix}"
    (folder / f"{sweep.name}.{suffix}").write_bytes(made.read_bytes())
  listed = json.dumps(docs.records(results), indent=1)
  (folder / f"{sweep.name}.json").write_text(f"{listed}\n", encoding="utf-8")
  path.write_text(filled, encoding="utf-8")


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
  verb = arguments.pop(0) if arguments and arguments[0] in ("pending", "run", "gather") else ""
  if len(arguments) < 2:
    raise SweepError("a sweep and a directory are needed")
  if verb == "gather":
    sweep = load(arguments[0])
    missing = gather(sweep, arguments[1])
    if len(arguments) > 2:
      publish(sweep, arguments[1], arguments[2])
    if missing:
      raise SweepError(f"{len(missing)} runs have no result: {', '.join(missing)}")
    return
  if verb == "run":
    if failed := run(load(arguments[0]), arguments[1], arguments[2:]):
      raise SweepError(f"these runs failed: {'; '.join(failed)}")
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
