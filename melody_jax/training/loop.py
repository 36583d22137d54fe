"""The training loop for all models; it knows nothing about any of them.

The order of one turn is: evaluate, save, next batch, step, log. In this order a checkpoint always
matches its position in the data.
"""

import contextlib
import os
import sys
import time
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from melody_jax import sharding
from melody_jax.errors import UserError, check_choice
from melody_jax.input_pipeline.grain_source import ahead
from melody_jax.input_pipeline.source import make_source
from melody_jax.multihost.preemption import PreemptionNotice
from melody_jax.task import Task, make_task
from melody_jax.training import run_record
from melody_jax.training.checkpoint import Checkpointer
from melody_jax.training.flops import useful_flops
from melody_jax.training.initial_params import with_params_of, with_public_params
from melody_jax.training.judge import make_judge
from melody_jax.training.metric_logger import SOUNDS, MetricLogger
from melody_jax.training.profile_window import ProfileWindow
from melody_jax.training.state import (
  TrainState,
  abstract_state,
  make_init,
  sharded_init,
  shardings_of_state,
)
from melody_jax.training.step import compile_train_step, make_eval_step, make_train_step

NONFINITE_POLICIES = ("stop", "skip")


def _to_device(batch, row_sharding):
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(row_sharding, x), batch)


def _shapes(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


class _Evaluation:
  """Computes mean metrics over a fixed set of validation batches."""

  def __init__(self, config, task, mesh, part):
    self._source = make_source(config, task, config.data.eval_split, part=part)
    self._first = self._source.get_state()
    self._prepare = task.prepare
    # Whole on every device: a host can read no array that spans several hosts.
    self._step = jax.jit(
      sharding.under_mesh(mesh, make_eval_step(task)), out_shardings=sharding.replicated(mesh)
    )
    self._batches = config.train.eval_batches
    self._rows = sharding.batch_sharding(mesh)

  def __call__(self, state: TrainState) -> tuple[dict[str, float], Any]:
    # The same batches every time, so that two evaluations differ by the model alone.
    self._source.set_state(self._first)
    total: dict[str, float] = {}
    batch = None
    for i in range(self._batches):
      batch = _to_device(self._prepare(next(self._source)), self._rows)
      for name, value in jax.device_get(self._step(state, batch, i)).items():
        total[name] = total.get(name, 0.0) + float(value) / self._batches
    self._source.close()  # until the next time nobody reads ahead
    return total, batch


def compile_media(task: Task, mesh: Mesh) -> Any:
  """`task.media` under jit: what is written of it, whole on every device."""

  def media(params, batch, rng):
    # Rows are cut off before they are gathered: a batch of sound is large, and few are kept.
    return {
      name: value[:SOUNDS] if name.startswith("audio/") else value
      for name, value in task.media(params, batch, rng).items()
    }

  return jax.jit(sharding.under_mesh(mesh, media), out_shardings=sharding.replicated(mesh))


class _FinitenessWatch:
  """Finds the steps whose gradients were not finite, without waiting for any step.

  Args:
    policy: "stop" raises at the next check; "skip" reports the steps and goes on.
    workdir: Directory of the run, for the message.
  """

  def __init__(self, policy: str, workdir: str | os.PathLike):
    check_choice("config.train.on_nonfinite", policy, NONFINITE_POLICIES)
    self._policy = policy
    self._workdir = workdir
    # Flags stay on the device until a check: reading one at every step would stall the device.
    self._pending: list[tuple[int, dict[str, Any], jax.Array]] = []
    self.skipped = 0

  def add(self, step: int, position: dict[str, Any], finite: jax.Array) -> None:
    """Remembers a step, the position of its batch in the data, and its flag (a future scalar)."""
    self._pending.append((step, position, finite))

  def check(self) -> None:
    """Reads all flags; under policy "stop" raises UserError if one of them is zero."""
    flags = jax.device_get([finite for _, _, finite in self._pending])
    bad = [p[:2] for p, flag in zip(self._pending, flags, strict=True) if not flag]
    self._pending = []
    self.skipped += len(bad)
    if not bad:
      return
    step, position = bad[0]
    message = f"step {step}: loss or gradients are not finite on the batch at data {position}"
    if self._policy == "stop":
      raise UserError(
        f"{message}; the parameters are those before it. Lower optimizer.learning_rate and run"
        f" again to go on from the last checkpoint in {self._workdir}, or set"
        " train.on_nonfinite=skip"
      )
    if jax.process_index() == 0:
      print(f"{message}: skipped ({self.skipped} so far)", file=sys.stderr, flush=True)


class _Run:
  """Everything that one call of `train` uses: task, mesh, data, checkpoints, log."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: str | os.PathLike):
    self.config = config
    self.workdir = workdir
    self.task: Task = make_task(config)
    self.mesh = sharding.make_mesh(config.mesh)
    self.rows = sharding.batch_sharding(self.mesh)
    self.watch = _FinitenessWatch(config.train.on_nonfinite, workdir)
    part = sharding.batch_part_of_host(self.mesh, config.train.batch_size)
    source = make_source(config, self.task, config.data.split, part=part)
    self.models = source.models
    self.checkpointer = Checkpointer(workdir, config.train)
    init, optimizers, boxed = make_init(config, self.task)
    shardings = shardings_of_state(self.mesh, init, boxed)
    # Restored by shapes alone, before any state is made: both together may not fit the memory.
    restored = self.checkpointer.restore(abstract_state(init, shardings))
    if restored is None:
      self.state = sharded_init(self.mesh, init, shardings)(jax.random.key(config.seed))
      if config.train.init_from:
        self.state = with_params_of(self.state, config.train.init_from, self.task, config.task)
      else:
        self.state = with_public_params(self.state, self.task)
    else:
      self.state, position = restored
      self._check_same_models(position.pop("models", {}))
      source.set_state(position)
    # A thread reads ahead: the device must not wait for the disk.
    self.source = ahead(source, self.task.prepare)
    self.train_step = compile_train_step(
      make_train_step(config, self.task, optimizers), self.mesh, shardings
    )
    self.evaluate = None
    if config.train.eval_every:
      self.evaluate = _Evaluation(config, self.task, self.mesh, part)
    self.media = compile_media(self.task, self.mesh)
    self.judge = make_judge(config, self.task, self.mesh)
    self.profile = ProfileWindow(config.train.profile, workdir)
    self.logger = MetricLogger(workdir, config)
    self.validation: dict[str, float] = {}  # means of the last evaluation

  def _check_same_models(self, before: dict[str, str]) -> None:
    """Raises UserError where other models encoded the data than when the run began."""
    changed = [name for name, digest in before.items() if self.models.get(name, digest) != digest]
    if changed:
      raise UserError(
        f"{', '.join(changed)} of the data are of another model than when the run in"
        f" {self.workdir} began: what it has learnt does not fit them; give another --workdir"
      )

  def evaluation(self, step: int) -> dict[str, float]:
    """Logs validation metrics, sound and pictures; returns the metrics."""
    assert self.evaluate is not None
    # Steps run ahead of the host: those still under way are training, not evaluation.
    jax.block_until_ready(self.state)
    began = time.monotonic()
    metrics, batch = self.evaluate(self.state)
    self.validation = metrics
    if self.config.train.media:
      params = self.state.params if self.state.ema is None else self.state.ema
      self.logger.media(step, self.media(params, batch, jax.random.key(0)))
      if self.judge:
        metrics |= self.judge(params, batch, jax.random.key(0))
    self.logger.evaluation(step, metrics, time.monotonic() - began)
    return metrics

  def save(self, step: int, force: bool, metrics: dict[str, float] | None) -> None:
    position = self.source.get_state()
    if self.models:  # plain audio has none
      position = {**position, "models": self.models}
    self.checkpointer.save(step, self.state, position, force, metrics)

  def step(self, step: int, log: bool) -> None:
    """Takes step number `step` (counted from 1), and reports it if `log` is true."""
    # Read before the batch, so that a message can name the batch that failed.
    position = self.source.get_state()
    self.profile.before(step)
    began = time.monotonic()
    batch = next(self.source)
    self.logger.waited(time.monotonic() - began)
    batch = _to_device(batch, self.rows)
    # Counted once, by who prints it: it takes a trace of the loss.
    if self.logger.wants_flops:
      self.logger.flops = useful_flops(self.task, *_shapes((self.state.params, batch)))
    self.state, metrics = self.train_step(self.state, batch)
    if self.profile.after(step, self.state):
      self.logger.profiled(step)
    self.watch.add(step, position, metrics.pop("finite"))
    if log:
      self.watch.check()
      # Only logged steps wait for the device; the others are queued ahead of it.
      values = {k: float(v) for k, v in jax.device_get(metrics).items()}
      self.logger.train(step, values, time.monotonic())

  def close(self) -> None:
    self.profile.close()
    self.source.close()
    self.checkpointer.close()
    self.logger.close()


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> TrainState:
  """Trains `config.task` up to step `config.train.steps`.

  The run goes on from the last checkpoint in `workdir`, if there is one. On SIGTERM it saves after
  the current step and returns early.

  Args:
    config: Config of the run.
    workdir: Directory of checkpoints, config.json and TensorBoard files.

  Returns:
    The state after the last step.

  Raises:
    UserError: if data or settings do not fit, the loss is not finite, the disk is full, or another
      training is at work in `workdir`.
  """
  run_record.check_workdir(workdir)
  alone = run_record.claimed(workdir) if jax.process_index() == 0 else contextlib.nullcontext()
  with alone:
    return _train(config, workdir)


def _train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> TrainState:
  run = _Run(config, workdir)
  last, every = config.train.steps, config.train.eval_every
  start = step = int(run.state.step)
  is_new = False  # whether this call reached the last step first
  run.logger.started(step)
  try:
    with PreemptionNotice() as notice:
      while True:
        # Not right after a start: that state has just been read, or is random.
        if step > start:
          preempted, metrics = notice.reached(step), None
          if run.evaluate and not preempted and (step % every == 0 or step == last):
            metrics = run.evaluation(step)
          run.save(step, preempted or step == last, metrics)
          if preempted:
            run.logger.preempted(step)
            break
        if step >= last:
          # Also where the run was killed between its last checkpoint and its result.
          is_new = step == last and not run_record.has_result(workdir, last)
          if is_new and run.evaluate and step == start:
            run.evaluation(step)
          break
        step += 1
        run.step(step, log=step % config.train.log_every == 0 or step in (start + 1, last))
  finally:
    # Also after an error: a checkpoint that is being written has to be finished.
    run.close()
  # Behind the checkpoint: who reads the result finds the model too.
  if is_new and jax.process_index() == 0:
    run_record.write_result(workdir, last, run.validation)
  return run.state
