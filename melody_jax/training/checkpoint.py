"""Checkpoints of a training run: state and data position, saved together by Orbax.

A checkpoint appears under its final name only when it is whole, and older ones are removed only
after that. What a disk or a kill still damages is found at restoring: the checkpoint is named,
moved to `<workdir>/checkpoints.damaged`, and the one before it is taken.
"""

import os
import sys
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp

from melody_jax.errors import UserError


def _directory_of(workdir: str | os.PathLike) -> epath.Path:
  """Where a run's checkpoints lie: absolute, or in a bucket (gs://...)."""
  directory = epath.Path(workdir) / "checkpoints"
  return directory if "://" in str(directory) else directory.resolve()


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:300] or type(error).__name__


class Checkpointer:
  """Saves and restores (state, source position) under `<workdir>/checkpoints`.

  Args:
    workdir: directory of the run.
    save_every: steps between saves.
    keep: number of checkpoints kept.

  Raises:
    UserError: if the directory cannot be made or written.
  """

  def __init__(self, workdir: str | os.PathLike, save_every: int, keep: int):
    self._save_every = save_every
    self._keep = keep
    self._directory = _directory_of(workdir)
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      save_interval_steps=self._save_every, max_to_keep=self._keep
    )
    try:
      return ocp.CheckpointManager(self._directory, options=options)
    except OSError as error:
      raise UserError(
        f"cannot write checkpoints to {self._directory} ({_one_line(error)}): give"
        " another --workdir"
      ) from error

  def save(self, step: int, state: Any, source_state: dict[str, Any], force: bool = False) -> None:
    """Saves if `step` is due (Orbax decides) or forced; asynchronous.

    Raises:
      UserError: this save, or the one before it that ran in the background, cannot be written.
    """
    if force and step in self._manager.all_steps():
      return
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), source=ocp.args.JsonSave(source_state)
    )
    try:
      self._manager.save(step, args=args, force=force)
    except (OSError, ValueError, RuntimeError) as error:
      raise self._failure(error) from error

  def _failure(self, error: Exception) -> UserError:
    good = self._whole_steps()
    last = f"the last good checkpoint is step {good[-1]}" if good else "there is no earlier one"
    return UserError(
      f"a checkpoint could not be written to {self._directory} ({_one_line(error)}); {last}:"
      " make room and run the same command to go on from it"
    )

  def _whole_steps(self) -> list[int]:
    """Steps that lie under their final name, whatever the manager believes."""
    try:
      return sorted(int(p.name) for p in self._directory.iterdir() if p.name.isdigit())
    except OSError:
      return []

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest checkpoint that can be read, laid out like `abstract_state`; None: there is none.

    Damaged ones are named on standard error and set aside.

    Raises:
      UserError: the checkpoint is whole but of another model or optimiser.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), source=ocp.args.JsonRestore()
          ),
        )
        # Reading is lazy: a torn file shows only when the values are there.
        jax.block_until_ready(restored.state)
      except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds
        self._check_same_model(step, abstract_state)
        self._set_aside(step, error)
      else:
        return restored.state, restored.source
    return None

  def _check_same_model(self, step: int, abstract_state: Any) -> None:
    """UserError if the checkpoint's tree or shapes are readable and differ from the run's."""
    try:
      stored = self._manager.item_metadata(step)["state"]
      # Written as a TrainState, read back as nested dicts: names and shapes are what matters.
      found = {
        _path(p): tuple(m.shape) for p, m in jax.tree_util.tree_leaves_with_path(stored.tree)
      }
    except Exception:  # unreadable metadata: damaged, not different
      return
    wanted = {
      _path(p): tuple(a.shape) for p, a in jax.tree_util.tree_leaves_with_path(abstract_state)
    }
    different = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if different:
      key = different[0]
      raise UserError(
        f"{self._directory}/{step} is of another model or optimiser: {key} is {found.get(key)}"
        f" there, {wanted.get(key)} in this config ({len(different)} such); use its config, or"
        " another --workdir"
      )

  def _set_aside(self, step: int, error: Exception) -> None:
    damaged = self._directory.with_name(self._directory.name + ".damaged")
    source, target = self._directory / str(step), damaged / str(step)
    if jax.process_index() == 0:
      print(
        f"checkpoint {source} is damaged ({_one_line(error)}): moved to {target}, trying the one"
        " before it",
        file=sys.stderr,
        flush=True,
      )
      if target.exists():
        target.rmtree()
      damaged.mkdir(exist_ok=True)
      source.rename(target)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f"set aside {step}")
    self._manager.close()
    self._manager = self._open()

  def close(self) -> None:
    """Waits for pending saves; UserError if one of them failed."""
    try:
      self._manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
      raise self._failure(error) from error
    finally:
      self._manager.close()


def _path(path: tuple[Any, ...]) -> str:
  """A leaf's place, the same for attributes, keys and indices."""
  names = (getattr(k, "name", getattr(k, "key", getattr(k, "idx", k))) for k in path)
  return "/".join(str(name) for name in names)


def load_params(workdir: str | os.PathLike) -> tuple[Any, int]:
  """Latest parameters of a run (averaged ones, where the run kept them) as numpy, and the step.

  Raises:
    UserError: if the run has no checkpoint.
  """
  directory = _directory_of(workdir)
  if not directory.is_dir():
    raise UserError(f"no checkpoints under {workdir}: train first with python -m melody_jax.train")
  with ocp.CheckpointManager(directory) as manager:
    step = manager.latest_step()
    if step is None:
      raise UserError(f"no finished checkpoint under {workdir}")
  place = directory / str(step) / "state"
  # Saved by other devices, perhaps: laid out on one of these, whatever the run's mesh was.
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  with ocp.StandardCheckpointer() as reader:
    layout = jax.tree.map(
      lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here),
      reader.metadata(place).item_metadata.tree,
    )
    state = reader.restore(place, layout)
  params = state["ema"] if state.get("ema") else state["params"]
  return jax.device_get(params), int(step)
