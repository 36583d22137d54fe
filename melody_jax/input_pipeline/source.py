"""Makes the input source that a training config names."""

from collections.abc import Iterator
import math
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from melody_jax.errors import UserError, check_choice
from melody_jax.input_pipeline.array_dataset import ArrayDataset
from melody_jax.input_pipeline.array_source import ArraySource
from melody_jax.multihost import session
from melody_jax.task import Inputs


class Source(Protocol, Iterator[dict[str, np.ndarray]]):
  """Endless batches with a position that can be saved and restored.

  A batch is {feature: array [rows of this host, *shape]}, in numpy on the host. Two sources of the
  same settings yield the same batches; after `set_state` a source goes on as the one did whose
  state it got. `tests/input_pipeline/test_source.py` holds every source to this.
  """

  @property
  def windows(self) -> int:
    """How many windows it draws from, over all hosts."""

  def get_state(self) -> dict[str, Any]:
    """Position: values that JSON can hold. What they mean only the source itself knows.

    A reader that wants the first batches again keeps the state that a new source has.
    """

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position that `get_state` of a source of these settings returned."""


def make_source(
  config: ml_collections.ConfigDict,
  task: Inputs,
  split: str,
  shuffle: bool = True,
  part: tuple[int, int] | None = None,
) -> Source:
  """Makes the source of one split. It reads the rows of this host only.

  Args:
    config: Config of the run.
    task: Task whose batches are wanted.
    split: Name of the split.
    shuffle: True gives random windows without end. False gives them in order.
    part: (index, count) of the part of each batch that this host reads, from
      `sharding.batch_part_of_host`. None takes the index of this process among all.

  Raises:
    UserError: config.data names no data, or data without what the task needs.
  """
  features = task.input_features()
  host = part or (jax.process_index(), jax.process_count())
  tokenize = task.tokenizer()
  check_choice("config.data.source", config.data.source, ("array", "seqio"))
  if not config.data.path:
    raise UserError(
      "config.data.path is empty: name an array dataset (or TFDS datasets or a seqio mixture with"
      " config.data.source=seqio); README, 'Train', makes one"
    )
  if config.data.source == "array":
    weights = _weights(config.data.weights)
    datasets = [ArrayDataset(path, split) for path in config.data.path.split(",")]
    if weights and len(weights) != len(datasets):
      raise UserError(
        f"config.data.weights has {len(weights)} numbers for {len(datasets)} datasets: give one"
        " each"
      )
    source = ArraySource(
      datasets,
      features,
      config.window_seconds,
      config.train.batch_size,
      config.seed,
      weights,
      shuffle,
      host,
      tokenize,
    )
    # A host without data would leave all others waiting in the first step.
    session.every_host_has_data(source.windows, f"windows of split {split}")
    return source
  from melody_jax.input_pipeline.seqio_source import SeqioSource

  return SeqioSource(config, features, split, shuffle, host, tokenize)


def _weights(text: str) -> list[float] | None:
  try:
    weights = [float(w) for w in text.split(",") if w.strip()]
  except ValueError as e:
    raise UserError(
      f"config.data.weights is {text!r}; it takes numbers with commas, as in 0.7,0.3"
    ) from e
  if any(not 0 <= w < math.inf for w in weights) or (weights and not any(weights)):
    raise UserError(f"config.data.weights is {text!r}: weights are 0 or more, and not all 0")
  return weights or None
