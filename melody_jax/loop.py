"""The only training loop; it knows no model.

Order of one turn: evaluate, save, next batch, step, log; so that a checkpoint always
matches its position in the data.
"""

from collections.abc import Callable
import os
import time
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from melody_jax import sharding
from melody_jax.checkpoint import Checkpointer
from melody_jax.errors import UserError
from melody_jax.input_pipeline.source import Source, make_source
from melody_jax.metric_logger import MetricLogger
from melody_jax.optimizer import make_optimizer
from melody_jax.task import Task, make_task


@struct.dataclass
class TrainState:
  """All that a step reads and writes.

  Attributes:
    step: steps taken.
    params: float32 parameters.
    opt_state: optimiser state.
    ema: averaged parameters, or None.
    rng: key of the run; a step uses fold_in(rng, step).
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema: Any
  rng: jax.Array


def make_init(config: ml_collections.ConfigDict, task: Task):
  """Returns (init(rng) -> TrainState, optimizer, boxed abstract parameters)."""
  boxed = jax.eval_shape(task.init, jax.random.key(0))
  labels = task.optimizer_labels(nn.meta.unbox(boxed))
  optimizer = make_optimizer(config.optimizer, config.train.steps, labels)

  def init(rng: jax.Array) -> TrainState:
    init_rng, run_rng = jax.random.split(rng)
    params = nn.meta.unbox(task.init(init_rng))
    ema = jax.tree.map(jnp.copy, params) if config.train.ema_decay else None
    return TrainState(
      jnp.zeros((), jnp.int32), params, optimizer.init(params), ema, jax.random.key_data(run_rng)
    )

  return init, optimizer, boxed


def shardings_of_state(mesh, init: Callable, optimizer, boxed: Any) -> TrainState:
  """Shardings shaped like the state: parameters and everything shaped like them by their names."""
  by_name = sharding.state_shardings(mesh, boxed)
  abstract = jax.eval_shape(init, jax.random.key(0))
  whole: Any = sharding.replicated(mesh)
  opt_state = optax.tree_map_params(
    optimizer, lambda _, s: s, abstract.opt_state, by_name, transform_non_params=lambda _: whole
  )
  return TrainState(whole, by_name, opt_state, by_name if abstract.ema is not None else None, whole)


def make_train_step(
  config: ml_collections.ConfigDict, task: Task, optimizer: optax.GradientTransformation
):
  """Returns train_step(state, batch) -> (state, metrics), pure."""
  decay = config.train.ema_decay

  def train_step(state: TrainState, batch):
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    (_, metrics), grads = jax.value_and_grad(task.loss, has_aux=True)(
      state.params, batch, rng, state.step
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if decay:
      rate = 1.0 - jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
      ema = jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)
    metrics = dict(metrics, grad_norm=optax.global_norm(grads))
    return TrainState(state.step + 1, params, opt_state, ema, state.rng), metrics

  return train_step


def make_eval_step(config: ml_collections.ConfigDict, task: Task):
  """Returns eval_step(state, batch, index) -> metrics; the same draws at every evaluation."""
  del config

  def eval_step(state: TrainState, batch, index):
    rng = jax.random.fold_in(jax.random.key(0), index)
    params = state.params if state.ema is None else state.ema
    return task.loss(params, batch, rng, state.step, train=False)[1]

  return eval_step


def _to_device(batch, row_sharding):
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(row_sharding, x), batch)


class _Evaluation:
  """Mean metrics over a fixed set of validation batches."""

  def __init__(self, config, task, row_sharding):
    self._source = make_source(config, task, config.data.eval_split)
    self._prepare = task.prepare
    self._step = jax.jit(make_eval_step(config, task))
    self._batches = config.train.eval_batches
    self._rows = row_sharding

  def __call__(self, state: TrainState) -> tuple[dict[str, float], Any]:
    self._source.set_state({"position": 0})
    total: dict[str, float] = {}
    batch = None
    for i in range(self._batches):
      batch = _to_device(self._prepare(next(self._source)), self._rows)
      for name, value in jax.device_get(self._step(state, batch, i)).items():
        total[name] = total.get(name, 0.0) + float(value) / self._batches
    return total, batch


def _born_or_restored(config, task, mesh, checkpointer: Checkpointer, source: Source):
  """The state, sharded from birth, or the latest checkpoint; the source follows it."""
  init, optimizer, boxed = make_init(config, task)
  shardings = shardings_of_state(mesh, init, optimizer, boxed)
  if checkpointer.latest_step() is None:
    state = jax.jit(init, out_shardings=shardings)(jax.random.key(config.seed))
    return state, optimizer, shardings
  abstract = jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    jax.eval_shape(init, jax.random.key(0)),
    shardings,
  )
  state, position = checkpointer.restore(abstract)
  source.set_state(position)
  return state, optimizer, shardings


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> TrainState:
  """Trains `config.task` to `config.train.steps`, resuming from `workdir` where it can.

  Raises:
    UserError: for data or settings that do not fit, or a loss that is not finite.
  """
  task = make_task(config)
  mesh = sharding.make_mesh(config.mesh)
  rows = sharding.batch_sharding(mesh)
  source = make_source(config, task, config.data.split)
  checkpointer = Checkpointer(workdir, config.train.save_every, config.train.keep)
  state, optimizer, shardings = _born_or_restored(config, task, mesh, checkpointer, source)
  train_step = jax.jit(
    make_train_step(config, task, optimizer),
    in_shardings=(shardings, rows),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  evaluate = _Evaluation(config, task, rows) if config.train.eval_every else None
  media = jax.jit(task.media)
  logger = MetricLogger(workdir, config)
  start = step = int(state.step)
  logger.started(step)
  while True:
    if (evaluate and step % config.train.eval_every == 0 and step > start) or (
      step == config.train.steps and evaluate
    ):
      metrics, batch = evaluate(state)
      logger.evaluation(step, metrics)
      if config.train.media:
        params = state.params if state.ema is None else state.ema
        logger.media(step, media(params, batch, jax.random.key(0)))
    if step > start:
      checkpointer.save(step, state, source.get_state(), force=step == config.train.steps)
    if step >= config.train.steps:
      break
    batch = _to_device(task.prepare(next(source)), rows)
    state, metrics = train_step(state, batch)
    step += 1
    if step % config.train.log_every == 0 or step == start + 1:
      values = {k: float(v) for k, v in jax.device_get(metrics).items()}
      logger.train(step, values, time.monotonic())
      if not all(map(_finite, values.values())):
        raise UserError(
          f"step {step}: a metric is not finite ({values}): lower optimizer.learning_rate,"
          f" or resume from {workdir}, whose last checkpoint is good"
        )
  checkpointer.close()
  logger.close()
  return state


def _finite(value: float) -> bool:
  return value == value and abs(value) != float("inf")
