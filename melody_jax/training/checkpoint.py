"""Checkpoints of a training run: state and position in the data, saved together by Orbax.

A checkpoint gets its final name only when it is complete, and older ones are removed only after
that. Damage by a disk or a kill is found when a checkpoint is restored: its name is printed, it is
moved to `<workdir>/checkpoints.damaged`, and the checkpoint before it is used.
"""

from collections.abc import Callable
import logging
import math
import os
import sys
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import ml_collections
import orbax.checkpoint as ocp

from melody_jax.errors import UserError
from melody_jax.parameter_rules import name_of
from melody_jax.places import buckets


def _directory_of(workdir: str | os.PathLike) -> epath.Path:
  """Directory of a run's checkpoints: an absolute path, or one in a bucket (gs://...)."""
  # Orbax refuses relative paths; resolve() would damage a bucket's name.
  directory = epath.Path(workdir) / "checkpoints"
  return directory if buckets.in_bucket(directory) else directory.resolve()


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())[:300] or type(error).__name__


class Checkpointer:
  """Saves and restores (state, position in the data) under `<workdir>/checkpoints`.

  Args:
    workdir: Directory of the run.
    settings: `config.train`: save_every, keep, keep_every, best_metric and best_mode.

  Raises:
    UserError: if the directory cannot be made or written.
  """

  def __init__(self, workdir: str | os.PathLike, settings: ml_collections.ConfigDict):
    self._settings = settings
    self._directory = _directory_of(workdir)
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    settings, policies = self._settings, ocp.checkpoint_managers
    kept: list[Any] = [policies.LatestN(settings.keep)]
    if settings.keep_every:
      kept.append(policies.EveryNSteps(settings.keep_every))
    if settings.best_metric:
      rank = _rank_by(settings.best_metric, settings.best_mode)
      kept.append(policies.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
      save_interval_steps=settings.save_every,
      preservation_policy=policies.AnyPreservationPolicy(kept),
      # Asks Orbax to store the metrics beside a checkpoint.
      best_fn=_rank_by(settings.best_metric, settings.best_mode) if settings.best_metric else None,
    )
    try:
      return ocp.CheckpointManager(self._directory, options=options)
    except OSError as error:
      raise UserError(
        f"cannot write checkpoints to {self._directory} ({_one_line(error)}): give"
        " another --workdir"
      ) from error

  def save(
    self,
    step: int,
    state: Any,
    source_state: dict[str, Any],
    force: bool = False,
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Saves if `step` is due, as Orbax decides, if forced, or if it is the best one so far.

    Writing goes on in the background.

    Args:
      step: Number of the step.
      state: The state, a pytree of arrays.
      source_state: Position in the data, values that JSON can hold.
      force: Saves whatever Orbax thinks.
      metrics: Validation means of this step; None where it was not evaluated.

    Raises:
      UserError: if this checkpoint, or the one before it, cannot be written, or if the metrics lack
        that of `best_metric`.
    """
    measured = self._measured(metrics)
    force = force or self._is_best(measured)
    # The last step may have been due anyway; Orbax raises where a step is saved twice.
    if force and step in self._manager.all_steps():
      return
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), source=ocp.args.JsonSave(source_state)
    )
    try:
      self._manager.save(step, args=args, force=force, metrics=measured)
    except (OSError, ValueError, RuntimeError) as error:
      raise self._failure(error) from error

  def _measured(self, metrics: dict[str, float] | None) -> dict[str, float] | None:
    """The metric by which checkpoints are ranked, {name: value}; None where there is none."""
    name = self._settings.best_metric
    if metrics is None or not name:
      return None
    if name not in metrics:
      raise UserError(
        f"config.train.best_metric is {name!r}; the evaluation has {', '.join(sorted(metrics))}"
      )
    return {name: metrics[name]}

  def _is_best(self, measured: dict[str, float] | None) -> bool:
    if measured is None:
      return False
    rank = _rank_by(self._settings.best_metric, self._settings.best_mode)
    known = [self._manager.metrics(step) for step in self._manager.all_steps()]
    return all(rank(measured) > rank(other) for other in known if other)

  def _failure(self, error: Exception) -> UserError:
    # The other writes under way fail as well, and asyncio would print a traceback for each of them
    # after the one line that the user gets.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # Read from the disk: the manager may have failed in the middle of its own bookkeeping.
    good = self._whole_steps()
    last = f"the last good checkpoint is step {good[-1]}" if good else "there is no earlier one"
    return UserError(
      f"a checkpoint could not be written to {self._directory} ({_one_line(error)}); {last}:"
      " make room and run the same command to go on from it"
    )

  def _whole_steps(self) -> list[int]:
    """Steps of the complete checkpoints on disk, in order; the manager may not know them."""
    try:
      return sorted(int(p.name) for p in self._directory.iterdir() if p.name.isdigit())
    except OSError:
      return []

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
    """Restores the newest checkpoint that can be read.

    Damaged checkpoints are named on standard error and moved aside.

    Args:
      abstract_state: Shapes, dtypes and shardings of the state.

    Returns:
      (state, position in the data), or None where there is no checkpoint.

    Raises:
      UserError: if a complete checkpoint belongs to another model or optimiser.
    """
    # From the newest: a torn file costs the steps since the one before, not the run.
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), source=ocp.args.JsonRestore()
          ),
        )
        # Arrays are read in the background: a torn file shows only when their values are there.
        jax.block_until_ready(restored.state)
      except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds
        self._check_same_model(step, abstract_state)
        self._set_aside(step, error)
      else:
        return restored.state, restored.source
    return None

  def _check_same_model(self, step: int, abstract_state: Any) -> None:
    """Raises UserError if the checkpoint's names or shapes can be read and differ from the run's.

    Otherwise the checkpoint counts as damaged. A user who changed the config must not lose it.
    """
    try:
      stored = self._manager.item_metadata(step)["state"]
      # Written as a TrainState, read back as nested dicts: only names and shapes can be compared.
      found = {
        name_of(p): tuple(m.shape) for p, m in jax.tree_util.tree_leaves_with_path(stored.tree)
      }
    except Exception:  # unreadable metadata: damaged, not different
      return
    wanted = {
      name_of(p): tuple(a.shape) for p, a in jax.tree_util.tree_leaves_with_path(abstract_state)
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
      # Moved, not deleted: it may hold the only copy of what can still be read.
      damaged.mkdir(exist_ok=True)
      source.rename(target)
    # No host may look for the next checkpoint before this one is gone for all of them.
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f"set aside {step}")
    self._manager.close()
    self._manager = self._open()

  def close(self) -> None:
    """Waits for pending saves; raises UserError if one of them failed."""
    try:
      self._manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
      raise self._failure(error) from error
    finally:
      self._manager.close()


def _rank_by(metric: str, mode: str) -> Callable[[Any], float]:
  """Rank of a checkpoint by its metrics: a number that is higher for better ones."""

  def rank(metrics: Any) -> float:
    # One that has another metric (the setting was changed), or NaN, is worse than all others.
    value = (metrics or {}).get(metric, math.nan)
    if math.isnan(value):
      return -math.inf
    return value if mode == "max" else -value

  return rank


def _best_step(manager: ocp.CheckpointManager, workdir: Any, metric: str, mode: str) -> int:
  rank = _rank_by(metric, mode)
  ranks = {step: rank(manager.metrics(step)) for step in manager.all_steps()}
  step = max(ranks, key=lambda step: ranks[step], default=None)
  if not metric or step is None or ranks[step] == -math.inf:
    raise UserError(
      f"no checkpoint under {workdir} was measured by config.train.best_metric={metric!r}: train"
      " with it, or export the last one (config.export.checkpoint=last)"
    )
  return step


def load_params(workdir: str | os.PathLike, best: tuple[str, str] | None = None) -> tuple[Any, int]:
  """Loads the parameters of a run's last or best checkpoint.

  Args:
    workdir: Directory of the run.
    best: (metric, "min" or "max") of the run's `train.best_metric`; None takes the last.

  Returns:
    (nested dict of numpy arrays, step). The parameters are the averaged ones where the run has
    them.

  Raises:
    UserError: if the run has no checkpoint, or none with that metric.
  """
  directory = _directory_of(workdir)
  if not directory.is_dir():
    raise UserError(f"no checkpoints under {workdir}: train first with python -m melody_jax.train")
  with ocp.CheckpointManager(directory) as manager:
    step = manager.latest_step()
    if step is None:
      raise UserError(f"no finished checkpoint under {workdir}: let the run save one first")
    if best is not None:
      step = _best_step(manager, workdir, *best)
  place = directory / str(step) / "state"
  # The run may have had other devices and another mesh. One device of this machine takes it all.
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  with ocp.StandardCheckpointer() as reader:
    layout = jax.tree.map(
      lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here),
      reader.metadata(place).item_metadata.tree,
    )
    state = reader.restore(place, layout)
  # The averaged parameters are those that the evaluation measured.
  params = state["ema"] if state.get("ema") else state["params"]
  return jax.device_get(params), int(step)
