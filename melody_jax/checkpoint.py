"""Checkpoints of a training run: state and data position, saved together by Orbax."""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from melody_jax.errors import UserError


class Checkpointer:
  """Saves and restores (state, source position) under `<workdir>/checkpoints`.

  Args:
    workdir: directory of the run.
    save_every: steps between saves.
    keep: number of checkpoints kept.
  """

  def __init__(self, workdir: str | os.PathLike, save_every: int, keep: int):
    options = ocp.CheckpointManagerOptions(save_interval_steps=save_every, max_to_keep=keep)
    self._manager = ocp.CheckpointManager(
      os.path.abspath(os.path.join(workdir, "checkpoints")), options=options
    )

  def save(self, step: int, state: Any, source_state: dict[str, Any], force: bool = False) -> None:
    """Saves if `step` is due (Orbax decides) or forced; asynchronous."""
    if force and step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), source=ocp.args.JsonSave(source_state)
      ),
      force=force,
    )

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """The latest checkpoint, laid out like `abstract_state` (shapes, dtypes, shardings)."""
    step = self._manager.latest_step()
    if step is None:
      raise UserError("no checkpoint to restore")
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state), source=ocp.args.JsonRestore()
      ),
    )
    return restored.state, restored.source

  def close(self) -> None:
    """Waits for pending saves."""
    self._manager.wait_until_finished()
    self._manager.close()


def load_params(workdir: str | os.PathLike) -> tuple[Any, int]:
  """Latest parameters of a run (averaged ones, where the run kept them) as numpy, and the step.

  Raises:
    UserError: if the run has no checkpoint.
  """
  directory = os.path.abspath(os.path.join(workdir, "checkpoints"))
  if not os.path.isdir(directory):
    raise UserError(f"no checkpoints under {workdir}: train first with python -m melody_jax.train")
  with ocp.CheckpointManager(directory) as manager:
    step = manager.latest_step()
    if step is None:
      raise UserError(f"no finished checkpoint under {workdir}")
    restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
  state = restored.state
  params = state["ema"] if state.get("ema") else state["params"]
  return jax.device_get(params), int(step)
