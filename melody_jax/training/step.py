"""One training step and one evaluation step, as pure functions of a state and a batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import optax

from melody_jax import sharding
from melody_jax.errors import UserError
from melody_jax.task import Batch, Metrics, Task, Turn
from melody_jax.training.state import Optimizers, TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def _gradients(
  turn: Turn, parts: int, params: Any, batch: Batch, rng: jax.Array, step: jax.Array
) -> Any:
  """Computes ((loss, metrics), gradients), means over `parts` equal parts of the batch in turn."""

  def loss(own: Any, batch: Batch, rng: jax.Array, step: jax.Array) -> Any:
    return turn.loss(turn.put(params, own), batch, rng, step)

  gradient, own = jax.value_and_grad(loss, has_aux=True), turn.own(params)
  if parts == 1:
    return gradient(own, batch, rng, step)
  # Part i takes rows i, i + parts, ...: so every part has rows on all devices, and none is idle.
  split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
  first = jax.tree.map(lambda x: x[0], split)
  # The sum starts from zeros, so that the first part needs no program of its own.
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(gradient, own, first, rng, step),
  )

  def add(total, inputs):
    part, i = inputs
    values = gradient(own, part, jax.random.fold_in(rng, i), step)
    return jax.tree.map(lambda t, v: t + v / parts, total, values), None

  return lax.scan(add, zeros, (split, jnp.arange(parts)))[0]


def make_train_step(config: ml_collections.ConfigDict, task: Task, optimizers: Optimizers) -> Step:
  """Makes train_step(state, batch) -> (state, metrics).

  The task's turns are taken one after another, each with the parameters that the one before left,
  with its own optimiser and its own clipping. All see the same batch and the same random draws.

  A step whose loss or gradients are not finite, in any of its turns, changes only the step count.
  So no NaN gets into the parameters under any policy of `config.train.on_nonfinite`. The metrics
  are scalars: those of the task, "grad_norm" (of several turns "grad_norm_PART"), and "finite" (1
  or 0).

  Args:
    config: Config of the run.
    task: The model in training.
    optimizers: Optimiser of each turn, by its part of the parameters.

  Raises:
    UserError: if `config.train.accumulate` does not divide the batch size.
  """
  decay, parts, turns = config.train.ema_decay, config.train.accumulate, task.turns()
  if parts < 1 or config.train.batch_size % parts:
    raise UserError(
      f"config.train.accumulate {parts} must divide config.train.batch_size"
      f" {config.train.batch_size}"
    )

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    # From the step alone, so that a resumed run draws what the uninterrupted one would.
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    params, opt_state = state.params, state.opt_state
    metrics: Metrics = {}
    finite = jnp.ones((), bool)
    for turn in turns:
      (loss, found), grads = _gradients(turn, parts, params, batch, rng, state.step)
      grad_norm = optax.global_norm(grads)
      # One number tells of all gradients: a NaN anywhere makes the norm NaN.
      finite &= jnp.isfinite(grad_norm) & jnp.isfinite(loss)
      own = turn.own(params)
      updates, memory = optimizers[turn.part].update(grads, turn.own(opt_state), own)
      params = turn.put(params, optax.apply_updates(own, updates))
      opt_state = turn.put(opt_state, memory)
      metrics |= found | {f"grad_norm_{turn.part}" if turn.part else "grad_norm": grad_norm}
    ema = state.ema
    if decay:
      # A short average at first, so that it forgets the random start.
      rate = 1.0 - jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
      ema = jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)
    new = (params, opt_state, ema)
    old = (state.params, state.opt_state, state.ema)
    # `where` instead of `cond`: it costs one pass over the state and never splits the program.
    params, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    metrics["finite"] = finite.astype(jnp.float32)
    return TrainState(state.step + 1, params, opt_state, ema, state.rng), metrics

  return train_step


def make_eval_step(task: Task):
  """Makes eval_step(state, batch, index) -> metrics (scalars).

  The random draws depend on the index of the batch only, so they are the same in all evaluations.
  """

  def eval_step(state: TrainState, batch: Batch, index: Any) -> Metrics:
    rng = jax.random.fold_in(jax.random.key(0), index)
    # The averaged parameters are what is exported, so they are what is evaluated.
    params = state.params if state.ema is None else state.ema
    return task.loss(params, batch, rng, state.step, train=False)[1]

  return eval_step


def compile_train_step(step: Step, mesh: Mesh, shardings: TrainState) -> Any:
  """The step under jit, with explicit shardings. The old state's memory is used for the new one."""
  return jax.jit(
    sharding.under_mesh(mesh, step),
    in_shardings=(shardings, sharding.batch_sharding(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    # Without this, old and new state would be in memory at the same time.
    donate_argnums=0,
  )
