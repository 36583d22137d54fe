"""Makes the input source that a training config names."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset
from melody_jax.input_pipeline.array_source import TEXT_FEATURES, ArraySource
from melody_jax.multihost import session
from melody_jax.task import WindowFeature


class NeedsFeatures(Protocol):
  """Anything that says what a batch must hold: a Task, or a smaller object."""

  def input_features(self) -> dict[str, WindowFeature]: ...


class Source(Protocol, Iterator[dict[str, np.ndarray]]):
  """Endless batches with a position that can be saved and restored.

  A batch is {feature: array [rows of this host, *shape]}, in numpy on the host.
  """

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, state: dict[str, Any]) -> None: ...


def _tokenizer(config: ml_collections.ConfigDict):
  # Imported here, since most models read no text.
  from melody_jax import text

  return text.load_tokenizer(config.model.text_length, config.model.text_init)


def make_source(
  config: ml_collections.ConfigDict,
  task: NeedsFeatures,
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
  tokenize = _tokenizer(config) if any(name in features for name in TEXT_FEATURES) else None
  if not config.data.path:
    raise UserError(
      "config.data.path is empty: name an array dataset (or a seqio mixture with"
      " config.data.source=seqio); README, 'Train', makes one"
    )
  if config.data.source == "array":
    weights = [float(w) for w in config.data.weights.split(",") if w] or None
    datasets = [ArrayDataset(path, split) for path in config.data.path.split(",")]
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
  if config.data.source == "seqio":
    # TensorFlow takes seconds to import and need not be installed.
    from melody_jax.input_pipeline.seqio_source import SeqioSource

    return SeqioSource(config, features, split, shuffle, host, tokenize)
  raise UserError(f"config.data.source is {config.data.source!r}: it must be 'array' or 'seqio'")
