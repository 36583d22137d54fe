"""Starts a run from the parameters of a finished or public model instead of random ones."""

import dataclasses
import os
import sys
from typing import Any

import jax
import numpy as np

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.parameter_rules import name_of
from melody_jax.task import Task
from melody_jax.training.state import TrainState


def _flat(tree: Any) -> dict[str, Any]:
  return {name_of(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _mismatch(own: dict[str, Any], given: dict[str, Any], may_lack: frozenset[str]) -> str:
  """Says which parameter of `own` is missing in `given` or has another shape; "" if none has."""
  for name, value in own.items():
    if name not in given:
      if name not in may_lack:
        return f"{name} is not in the file"
    elif given[name].shape != value.shape:
      return f"{name} is {given[name].shape} in the file and {value.shape} in the config's model"
  return ""


def _announce(path: str | os.PathLike, own: dict[str, Any], given: dict[str, Any]) -> None:
  """Prints how many arrays come from the file, and which modules stay as they were drawn."""
  # Said aloud: a module that stays random by mistake costs a whole training.
  new = sorted({name.split("/")[0] for name in own.keys() - given.keys()})
  print(
    f"begins with {len(own.keys() & given.keys())} of {len(own)} arrays from {path}"
    + (f"; not in it: some of {', '.join(new)}" if new else ""),
    file=sys.stderr,
    flush=True,
  )


def with_params_of(
  state: TrainState, path: str | os.PathLike, task: Task, task_name: str
) -> TrainState:
  """Replaces the parameters of a new state, and their average, by those of a file.

  Optimiser, step and rng stay as they are, because this starts a new run and resumes none.
  Parameters that a file never holds keep their initial values: frozen ones of a public package, and
  whole modules that only training needs (discriminators). Results of fitting after the training
  (centres, codebooks) are not read.

  Args:
    state: a state of step 0, on its mesh; the new arrays lie as the old ones did.
    path: a file that `python -m melody_jax.export` wrote; or a public checkpoint, which then goes
      through `with_public_params`.
    task: The run's task; its `import_params` undoes its `export_params`.
    task_name: its name, which the file must bear.

  Raises:
    UserError: if the file is missing or damaged, belongs to another task, or has other sizes.
  """
  if bundle.is_foreign(path):
    return with_public_params(state, task, str(path))
  params, metadata = bundle.load(path)
  # Names of different models may agree by accident; the task settles it.
  if metadata.get("task") != task_name:
    raise UserError(
      f"train.init_from={path} holds a model of task {metadata.get('task')!r}, this run trains"
      f" {task_name!r}: give the {task_name}.safetensors of a bundle"
    )
  # Compared by path: models of one task may differ in depth, and then no order matches.
  own = _flat(state.params)
  given = bundle.flatten(task.import_params(params))
  labels = _flat(task.optimizer_labels(state.params) or {})
  # A module that is missing as a whole was left out on purpose; one missing array is a mistake.
  modules = {name.split("/")[0] for name in given}
  absent = frozenset(
    name for name in own if labels.get(name) == "frozen" or name.split("/")[0] not in modules
  )
  wrong = _mismatch(own, given, absent)
  if wrong or not own.keys() & given.keys():
    raise UserError(
      f"train.init_from={path} does not fit: {wrong or 'it has no parameter of this model'}."
      " Set config.model as the file's model_config has it"
    )
  if jax.process_index() == 0:
    _announce(path, own, given)

  return _replaced(state, {name: given[name] for name in own.keys() & given.keys()})


def _replaced(state: TrainState, given: dict[str, np.ndarray]) -> TrainState:
  """A state whose parameters, and their average, are those given; of stacked ones the first."""

  def of_file(keys: Any, old: jax.Array) -> jax.Array:
    value = given.get("/".join(k.key for k in keys))
    if value is None:
      return old
    value = value.astype(old.dtype)  # in the dtype of the state, and laid over the mesh as it is
    if value.shape == old.shape:
      return jax.device_put(value, old.sharding)
    begin = jax.jit(lambda old, value: old.at[: len(value)].set(value), out_shardings=old.sharding)
    return begin(old, value)

  def replace(tree: Any) -> Any:
    return jax.tree.map_with_path(of_file, tree)

  ema = None if state.ema is None else replace(state.ema)
  return dataclasses.replace(state, params=replace(state.params), ema=ema)


_STACKED = frozenset({"layers", "blocks"})  # modules whose parameters lie stacked, block by block


def _fits(name: str, given: np.ndarray, own: jax.Array) -> bool:
  """Whether an array can stand for a parameter, or for the first blocks of a stacked one."""
  stacked = bool(_STACKED & set(name.split("/"))) and given.ndim == own.ndim
  return given.shape == own.shape or (
    stacked and given.shape[1:] == own.shape[1:] and 0 < len(given) < len(own)
  )


def with_public_params(state: TrainState, task: Task, path: str = "") -> TrainState:
  """Replaces the parameters of a new state by those of public checkpoints, where shapes agree.

  What was taken and what was not is said on standard error. A file with fewer blocks than the
  network gives its own to the first ones.

  Args:
    state: a state of step 0, on its mesh; the new arrays lie as the old ones did.
    task: The run's task; its `public_params` reads the checkpoints.
    path: The checkpoint; "" for those that `config.model` names, which may be none.

  Raises:
    UserError: if a file is missing, damaged or of another kind, or no shape agrees.
  """
  given = bundle.flatten(task.public_params(path))
  if not given:
    return state
  own = _flat(state.params)
  taken = {name: v for name, v in given.items() if name in own and _fits(name, v, own[name])}
  source = path or "the public checkpoints of config.model"
  others = [
    f"{name} {given[name].shape}, here {own[name].shape}"
    for name in own.keys() & given.keys()
    if name not in taken
  ]
  if not taken:
    raise UserError(
      f"{source}: no parameter has the shape of this model's ({'; '.join(sorted(others)[:1])}): set"
      " config.model as the checkpoint has it"
    )
  if jax.process_index() == 0:
    print(_account(own, given, taken, source, sorted(others)), file=sys.stderr, flush=True)
  return _replaced(state, taken)


def _account(own: Any, given: Any, taken: Any, source: str, others: list[str]) -> str:
  """One line about what a new run takes of public checkpoints, and what it does not."""
  parts = [f"begins with {len(taken)} of {len(own)} arrays from {source}"]
  short = sorted({(len(v), len(own[n])) for n, v in taken.items() if v.shape != own[n].shape})
  parts += [f"of stacked ones {n} of {of} blocks" for n, of in short]
  if others:
    parts.append(f"of another shape: {', '.join(others)}")
  absent = sorted(own.keys() - given.keys())
  if absent:
    parts.append(f"not in it: {', '.join(absent)}")
  return "; ".join(parts)
