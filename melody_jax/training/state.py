"""What a training run carries from step to step, and how it lies on the mesh."""

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
from melody_jax.task import Task
from melody_jax.training.optimizer import make_optimizer


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


Init = Callable[[jax.Array], TrainState]


def make_init(
  config: ml_collections.ConfigDict, task: Task
) -> tuple[Init, optax.GradientTransformation, Any]:
  """Returns (init(rng) -> TrainState, optimizer, abstract parameters with their axis names)."""
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


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def shardings_of_state(mesh: Mesh, init: Init, boxed: Any) -> TrainState:
  """Shardings shaped like the state: parameters by their names, what an optimiser keeps as theirs.

  An entry of the optimiser's state belongs to the parameter whose path its own path ends in
  (Optax mirrors the tree of parameters, with gaps where some are frozen); all else is replicated.
  """
  by_name = sharding.state_shardings(mesh, boxed)
  abstract = jax.eval_shape(init, jax.random.key(0))
  whole: Any = sharding.replicated(mesh)
  of_path = {
    _keys(path): (leaf.shape, layout)
    for (path, leaf), layout in zip(
      jax.tree.leaves_with_path(abstract.params), jax.tree.leaves(by_name), strict=True
    )
  }

  def of_optimizer(path: tuple[Any, ...], leaf: Any) -> Any:
    keys = _keys(path)
    for start in range(len(keys)):
      shape, layout = of_path.get(keys[start:], (None, whole))
      if shape == leaf.shape:
        return layout
    return whole

  opt_state = jax.tree.map_with_path(of_optimizer, abstract.opt_state)
  return TrainState(whole, by_name, opt_state, by_name if abstract.ema is not None else None, whole)


def sharded_init(mesh: Mesh, init: Init, shardings: TrainState) -> Init:
  """`init` under jit: every device makes its own part of the state and never sees the rest."""
  return jax.jit(sharding.under_mesh(mesh, init), out_shardings=shardings)


def abstract_state(init: Init, shardings: TrainState) -> TrainState:
  """Shapes, dtypes and shardings of the state, without a byte of it."""
  return jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    jax.eval_shape(init, jax.random.key(0)),
    shardings,
  )
