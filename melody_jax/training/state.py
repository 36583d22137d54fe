"""The state of a training run, and how it is laid over the mesh."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import optax

from melody_jax import sharding
from melody_jax.parameter_rules import keys_of
from melody_jax.task import Task
from melody_jax.training.optimizer import make_optimizer

# Of each turn of a step, by the part of the parameters that it changes; "": all of them.
Optimizers = dict[str, optax.GradientTransformation]


@struct.dataclass
class TrainState:
  """Everything that a training step reads and writes.

  Attributes:
    step: Number of steps taken, an int32 scalar.
    params: Parameters, a pytree of float32 arrays.
    opt_state: State of the optimiser; where a step has several turns, that of each by its part.
    ema: Averaged parameters in the shape of `params`, or None.
    rng: Key data of the run, uint32 [2]; a step uses fold_in(rng, step).
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema: Any
  rng: jax.Array


Init = Callable[[jax.Array], TrainState]


def make_init(config: ml_collections.ConfigDict, task: Task) -> tuple[Init, Optimizers, Any]:
  """Makes the functions that a run starts from; no array is allocated.

  Returns:
    (init, optimizers, boxed): init(rng) makes a TrainState; boxed holds the shapes of the
    parameters with their logical axis names.
  """
  # Shapes alone: the mesh decides first where each part is born.
  boxed = jax.eval_shape(task.init, jax.random.key(0))
  labels = task.optimizer_labels(nn.meta.unbox(boxed))
  turns = task.turns()
  optimizers = {
    turn.part: make_optimizer(
      turn.optimizer or config.optimizer, config.train.steps, labels and turn.own(labels)
    )
    for turn in turns
  }

  def init(rng: jax.Array) -> TrainState:
    # Two keys: the draws of training must not repeat those of the initial values.
    init_rng, run_rng = jax.random.split(rng)
    params = nn.meta.unbox(task.init(init_rng))
    # A copy: donated buffers must not be shared between two parts of a state.
    ema = jax.tree.map(jnp.copy, params) if config.train.ema_decay else None
    opt_state: Any = {}
    for turn in turns:
      opt_state = turn.put(opt_state, optimizers[turn.part].init(turn.own(params)))
    return TrainState(
      jnp.zeros((), jnp.int32), params, opt_state, ema, jax.random.key_data(run_rng)
    )

  return init, optimizers, boxed


def shardings_of_state(mesh: Mesh, init: Init, boxed: Any) -> TrainState:
  """Shardings of a state, in its tree structure.

  A parameter is laid out by the names of its axes. An entry of the optimiser's state is laid out as
  the parameter whose path ends its own path: Optax copies the tree of parameters, with gaps where
  some are frozen. The state of one of several turns copies its part, whose name comes first.
  Everything else is replicated.
  """
  by_name = sharding.state_shardings(mesh, boxed)
  abstract = jax.eval_shape(init, jax.random.key(0))
  whole: Any = sharding.replicated(mesh)
  of_path = {
    keys_of(path): (leaf.shape, layout)
    for (path, leaf), layout in zip(
      jax.tree.leaves_with_path(abstract.params), jax.tree.leaves(by_name), strict=True
    )
  }

  def of_optimizer(path: tuple[Any, ...], leaf: Any) -> Any:
    keys = keys_of(path)
    for start in range(len(keys)):
      within = of_path.get((keys[0], *keys[start:]), (None, whole))
      shape, layout = of_path.get(keys[start:], within)
      # A factored moment has its parameter's path and another shape: it stays replicated.
      if shape == leaf.shape:
        return layout
    return whole

  # Moments lie where their parameters lie, so that an update moves no data.
  opt_state = jax.tree.map_with_path(of_optimizer, abstract.opt_state)
  return TrainState(whole, by_name, opt_state, by_name if abstract.ema is not None else None, whole)


def sharded_init(mesh: Mesh, init: Init, shardings: TrainState) -> Init:
  """`init` under jit. Every device makes its own part of the state and never holds the rest."""
  return jax.jit(sharding.under_mesh(mesh, init), out_shardings=shardings)


def abstract_state(init: Init, shardings: TrainState) -> TrainState:
  """Shapes, dtypes and shardings of the state; nothing is allocated."""
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    jax.eval_shape(init, jax.random.key(0)),
    shardings,
  )
