"""What a run notes beside its checkpoints: config.json, progress.json, result.json at its end."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
from typing import Any

from etils import epath
import ml_collections

from melody_jax import provenance
from melody_jax.errors import UserError
from melody_jax.output_files import claim, write_error
from melody_jax.places import buckets

_FILE = "config.json"
_PROGRESS = "progress.json"
_RESULT = "result.json"
_SECTIONS = {"task", "model", "train", "data"}  # what the config of every run has
# They change how a model computes, not what its parameters mean.
_FREE_KEYS = ("dtype", "remat", "attention", "dropout")


def _read(workdir: str | os.PathLike, name: str = _FILE) -> Any:
  try:
    return json.loads((epath.Path(workdir) / name).read_text())
  except (OSError, ValueError):
    return None


def check_workdir(workdir: str | os.PathLike) -> None:
  """Refuses a directory whose config.json is not that of a run: it would be overwritten.

  Raises:
    UserError: naming the file.
  """
  path = epath.Path(workdir) / _FILE
  found = _read(workdir)
  if path.exists() and not (isinstance(found, dict) and found.keys() >= _SECTIONS):
    raise UserError(
      f"{path} is there already and was not written by melody_jax: give another --workdir, or move"
      " it away first"
    )


@contextlib.contextmanager
def claimed(workdir: str | os.PathLike) -> Iterator[None]:
  """Keeps another training out of a directory, where both would mix their checkpoints.

  Buckets know no such locks. Of the processes of one run the first alone claims it.

  Raises:
    UserError: if another training is at work there, or the directory cannot be made.
  """
  if buckets.in_bucket(workdir):
    yield
    return
  folder = pathlib.Path(workdir)
  if folder.exists() and not folder.is_dir():
    raise UserError(f"--workdir {folder} is a file: name a directory")
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise write_error(folder, error) from error
  with claim([folder / "checkpoints"], "give another --workdir"):
    yield


def write(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
  """Writes the config of a run into its directory, which is made where it is missing."""
  directory = epath.Path(workdir)
  directory.mkdir(parents=True, exist_ok=True)
  (directory / _FILE).write_text(config.to_json_best_effort(indent=2))


def write_progress(workdir: str | os.PathLike, progress: dict[str, Any]) -> None:
  """Writes where a run is, as `launch/status.py` reads it. Trouble with it never ends a run.

  Args:
    workdir: Directory of the run.
    progress: "step", "steps", "time" in seconds since 1970, "eta_seconds", and the last
      figures: "train", "validation" and "validation_step".
  """
  # What stands behind a bucket raises kinds of its own.
  with contextlib.suppress(Exception if buckets.in_bucket(workdir) else OSError):
    text = json.dumps({k: _plain(v) for k, v in progress.items()})
    _write_whole(epath.Path(workdir) / _PROGRESS, text)


def _write_whole(path: epath.Path, text: str) -> None:
  """Writes a file, or leaves the old one: whoever reads meanwhile sees that, whole."""
  partial = path.with_name(f".{path.name}.tmp-{os.getpid()}")
  partial.write_text(text)
  partial.replace(path)


def _plain(value: Any) -> Any:
  return {k: float(v) for k, v in value.items()} if isinstance(value, dict) else value


def write_result(workdir: str | os.PathLike, step: int, metrics: dict[str, float]) -> None:
  """Notes that a run reached its last step, and how it did: a sweep passes it over from then on.

  Args:
    workdir: Directory of the run.
    step: The last step.
    metrics: Validation means at that step; none where the run does not validate.

  Raises:
    UserError: if it cannot be written.
  """
  result = {"step": step, "metrics": metrics, "versions": provenance.versions()}
  path = epath.Path(workdir) / _RESULT
  try:
    _write_whole(path, json.dumps(result, indent=2) + "\n")
  except OSError as error:
    raise write_error(path, error) from error


def has_result(workdir: str | os.PathLike, step: int) -> bool:
  """Whether a run has noted its result at this step: it may since have been made longer."""
  found = _read(workdir, _RESULT)
  return isinstance(found, dict) and found.get("step") == step


def check_same_model(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
  """Refuses a config that names another model than the run in `workdir` has.

  Args:
    workdir: Directory of the run. One without a record passes.
    config: Config that its parameters are to be read with.

  Raises:
    UserError: naming what differs, and both values.
  """
  run = _read(workdir)
  if not isinstance(run, dict) or "task" not in run:
    return
  if run["task"] != config.task:
    raise UserError(
      f"{workdir} is a run of {run['task']!r}, --config names {config.task!r}: give"
      f" --config=configs/{run['task']}.py:{run.get('preset', 'PRESET')}, or that model's --workdir"
    )
  theirs, ours = run.get("model", {}), json.loads(config.model.to_json_best_effort())
  for key in sorted(theirs.keys() & ours.keys() - set(_FREE_KEYS)):
    if theirs[key] != ours[key]:
      raise UserError(
        f"config.model.{key} is {ours[key]!r}, the run in {workdir} has {theirs[key]!r}: give the"
        f" preset and the settings that it was trained with ({workdir}/{_FILE})"
      )
