"""What the training loop asks of a model, and the table of the models that answer."""

import dataclasses
import importlib
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from melody_jax.errors import UserError

Batch = dict[str, jax.Array]
Variables = Any  # pytree of parameters, boxed with logical axis names at birth
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class WindowFeature:
  """One entry of a training batch.

  Attributes:
    shape: shape without the batch axis.
    dtype: numpy dtype name in the batch ("float32", "int32", "bool").
  """

  shape: tuple[int, ...]
  dtype: str


class Task(Protocol):
  """One model in training: `Task(config)` with the whole config of the run."""

  def input_features(self) -> dict[str, WindowFeature]:
    """Names, shapes and dtypes of a batch's rows; asks the input pipeline for them."""

  def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Host-side work on a batch before it goes to the devices; usually none."""

  def init(self, rng: jax.Array) -> Variables:
    """Parameters, boxed with logical axis names."""

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Scalar loss and scalar metrics of a batch; pure, used for training and evaluation."""

  def optimizer_labels(self, params: Variables) -> Any:
    """None, or a pytree of labels: "frozen" leaves get no update, others keep the default."""

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """Sound and pictures for TensorBoard: "audio/..." [B, T], "image/..." [H, W]."""


class BaseTask:
  """Defaults of the optional parts of a Task."""

  def __init__(self, config: ml_collections.ConfigDict):
    self.config = config

  def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return batch

  def optimizer_labels(self, params: Variables) -> Any:
    del params
    return None

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    del params, batch, rng
    return {}


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
  if config.task not in TASKS:
    raise UserError(f"config.task is {config.task!r}; it must be one of {', '.join(TASKS)}")
  module, name = TASKS[config.task].split(":")
  return getattr(importlib.import_module(module), name)(config)
