"""Picks the input source that a training config names."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset
from melody_jax.input_pipeline.array_source import ArraySource
from melody_jax.multihost import session
from melody_jax.task import Inputs


class Source(Protocol, Iterator[dict[str, np.ndarray]]):
  """Endless batches with a position that can be saved and restored."""

  @property
  def windows(self) -> int:
    """How many windows it draws from, over all hosts."""

  def get_state(self) -> dict[str, Any]: ...

  def set_state(self, state: dict[str, Any]) -> None: ...


def make_source(
  config: ml_collections.ConfigDict,
  task: Inputs,
  split: str,
  shuffle: bool = True,
  part: tuple[int, int] | None = None,
) -> Source:
  """The source of `split` for `task`, reading this host's rows only.

  Args:
    config: of a run.
    task: what a batch must hold.
    split: of the data.
    shuffle: random windows without end; False: in order.
    part: (index, count) of the part of every batch that this host reads, as
      `sharding.batch_part_of_host` gives it; None: that of the process among all.

  Raises:
    UserError: if config.data names no data, or data that lack what the task needs.
  """
  features = task.input_features()
  host = part or (jax.process_index(), jax.process_count())
  tokenize = task.tokenizer()
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
    session.every_host_has_data(source.windows, f"windows of split {split}")
    return source
  if config.data.source == "seqio":
    from melody_jax.input_pipeline.seqio_source import SeqioSource

    return SeqioSource(config, features, split, shuffle, host, tokenize)
  raise UserError(f"config.data.source is {config.data.source!r}: it must be 'array' or 'seqio'")
