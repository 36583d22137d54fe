"""Starts a run from the parameters of a finished model instead of random ones."""

import dataclasses
import os
import sys
from typing import Any

import jax

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.task import Task
from melody_jax.training.state import TrainState


def _flat(tree: Any) -> dict[str, Any]:
  return {"/".join(k.key for k in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


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
    path: a file that `python -m melody_jax.export` wrote.
    task: The run's task; its `import_params` undoes its `export_params`.
    task_name: its name, which the file must bear.

  Raises:
    UserError: if the file is missing or damaged, belongs to another task, or has other sizes.
  """
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

  def replace(tree: Any) -> Any:
    def of_file(keys: Any, old: jax.Array) -> jax.Array:
      value = given.get("/".join(k.key for k in keys))
      # In the dtype of the state, and laid over the mesh as the state is.
      return old if value is None else jax.device_put(value.astype(old.dtype), old.sharding)

    return jax.tree.map_with_path(of_file, tree)

  ema = None if state.ema is None else replace(state.ema)
  return dataclasses.replace(state, params=replace(state.params), ema=ema)
