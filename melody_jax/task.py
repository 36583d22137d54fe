"""What the training loop asks of a model, and the table of the models that answer."""

from collections.abc import Callable
import dataclasses
import importlib
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from melody_jax.errors import UserError, check_choice

Batch = dict[str, jax.Array]
Variables = Any  # pytree of parameters, boxed with logical axis names at birth
Metrics = dict[str, jax.Array]


# Text of one caption -> (ids int32 [N], mask bool [N]).
Tokenize = Callable[[str], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class WindowFeature:
  """One entry of a training batch.

  Attributes:
    shape: Shape without the batch axis.
    dtype: Numpy dtype name in the batch ("float32", "int32", "bool").
    vocabulary: Number of different ids, for tokens; None for everything else.
  """

  shape: tuple[int, ...]
  dtype: str
  vocabulary: int | None = None


Loss = Callable[[Variables, Batch, jax.Array, jax.Array], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class Turn:
  """One update within a training step. Most models have one; players of a game have one each.

  Attributes:
    loss: Function of (parameters, batch, rng, step) to (scalar, metrics). It is given all
      parameters, those of earlier turns already updated.
    part: Top-level name of the parameters that this turn changes; "": all of them.
    optimizer: This turn's learning rate, clipping and so on; None: `config.optimizer`.
  """

  loss: Loss
  part: str = ""
  optimizer: ml_collections.ConfigDict | None = None

  def own(self, tree: Any) -> Any:
    """The turn's part of a tree of parameters, of labels or of optimiser states."""
    return tree[self.part] if self.part else tree

  def put(self, tree: Any, own: Any) -> Any:
    """The tree with this turn's part replaced."""
    return {**tree, self.part: own} if self.part else own


class Inputs(Protocol):
  """What an input source must know of whoever reads its batches: a Task, or less."""

  def input_features(self) -> dict[str, WindowFeature]:
    """Names, shapes, dtypes and vocabularies of a batch's rows."""

  def tokenizer(self) -> Tokenize | None:
    """Makes `text_ids` and `text_mask` of a caption; None where no text is read."""


class Task(Inputs, Protocol):
  """One model in training: `Task(config)` with the whole config of the run.

  This is all that the rest of the program knows of a model. `BaseTask` has the defaults; a new
  task needs `input_features`, `init` and `loss`.
  """

  def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Host-side work on a batch before it goes to the devices; usually none."""

  def init(self, rng: jax.Array) -> Variables:
    """Parameters, boxed with logical axis names."""

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Scalar loss and scalar metrics of a batch; pure, used for training and evaluation.

    Where a step has several turns this is the sum of their losses, each with the others' parameters
    held still: evaluation and counts of useful work take it.
    """

  def turns(self) -> tuple[Turn, ...]:
    """Updates of a training step, in their order."""

  def optimizer_labels(self, params: Variables) -> Any:
    """None, or a pytree of labels: "frozen" leaves get no update, others keep the default."""

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """Sound and pictures for TensorBoard: "audio/..." [B, T], "image/..." [H, W]."""

  # What the model makes of a batch, if one can listen to it: "audio", "latents" or "tokens".
  makes: str

  def made(self, params: Variables, batch: Batch, rng: jax.Array) -> jax.Array:
    """What the model makes of a batch: audio [B, S], latents [B, L, D] or tokens int32 [B, T]."""

  def wanted(self, batch: Batch) -> jax.Array:
    """What it should have made, of the same shape."""

  def without_recomputation(self) -> "Task":
    """The same task, which computes nothing twice to save memory; for counts of useful work."""

  def export_params(self, params: Variables) -> Variables:
    """Parameters as the model's file holds them: without what serves training alone."""

  def import_params(self, params: Variables) -> Variables:
    """The reverse of `export_params`; parameters that the file lacks may be missing."""

  def export_files(self) -> dict[str, str]:
    """Text files that belong beside the model's file: {name: text}."""

  def public_params(self, path: str = "") -> Variables:
    """Parameters of public checkpoints, which a new run begins with; numpy, a part of the tree.

    Those that `config.model` names, or, if `path` is given (train.init_from), those of this file.
    """


class BaseTask:
  """Defaults of the optional parts of a Task."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config

  def tokenizer(self) -> Tokenize | None:
    return None

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Every task's own: (total, metrics), each a scalar, float32 []."""
    raise NotImplementedError

  def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return batch

  def turns(self) -> tuple[Turn, ...]:
    return (Turn(self.loss),)

  def optimizer_labels(self, params: Variables) -> Any:
    del params
    return None

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    del params, batch, rng
    return {}

  makes = ""

  def made(self, params: Variables, batch: Batch, rng: jax.Array) -> jax.Array:
    """What the model makes of a batch, float [B, T] or [B, L, D]; see `makes`."""
    raise NotImplementedError

  def wanted(self, batch: Batch) -> jax.Array:
    """What real data has in its place, of the same shape."""
    raise NotImplementedError

  def without_recomputation(self) -> Any:
    return self

  def with_model(self, **settings: Any) -> Any:
    """A task of the same kind whose `config.model` has other settings."""
    config = self.config.copy_and_resolve_references()
    with config.unlocked():  # a config may leave out what its model has a default for
      config.model.update(settings)
    # A new task: networks are built once, from their config.
    return type(self)(config)

  def export_params(self, params: Variables) -> Variables:
    return params

  def import_params(self, params: Variables) -> Variables:
    return params

  def export_files(self) -> dict[str, str]:
    return {}

  def public_params(self, path: str = "") -> Variables:
    if path:
      raise UserError(
        f"{path} is a safetensors file but not one of melody_jax, and a model of task"
        f" {self.config.task!r} begins with no other"
      )
    return {}


# A sixth model is one line more here, beside its network, its task and its config.
TASKS = {
  "mulan": "melody_jax.tasks.mulan:MuLanTask",
  "wav2vec": "melody_jax.tasks.wav2vec:Wav2VecTask",
  "lm": "melody_jax.tasks.lm:LMTask",
  "dpd": "melody_jax.tasks.dpd:DPDTask",
  "vae": "melody_jax.tasks.vae:VAETask",
}


def make_task(config: ml_collections.ConfigDict) -> Task:
  """Builds the task that `config.task` names.

  Raises:
    UserError: for a name that TASKS lacks.
  """
  check_choice("config.task", config.task, TASKS)
  # Imported when it is asked for: one model's training does not load the others.
  module, name = TASKS[config.task].split(":")
  return getattr(importlib.import_module(module), name)(config)
