"""Makes the input source that a training config names."""

from collections.abc import Iterator
import math
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from melody_jax.config import listed
from melody_jax.errors import UserError, check_choice
from melody_jax.input_pipeline import unheard_captions
from melody_jax.input_pipeline.dataset import Dataset, has_split
from melody_jax.multihost import session
from melody_jax.progress import print_progress
from melody_jax.task import Inputs, Tokenize
from melody_jax.text import Tokenizer

# Each takes the reading of a record: a start must not take minutes.
_RECORDS_LOOKED_AT = 256


class Source(Protocol, Iterator[dict[str, np.ndarray]]):
  """Endless batches with a position that can be saved and restored.

  A batch is {feature: array [rows of this host, *shape]}, in numpy on the host. Two sources of the
  same settings yield the same batches; after `set_state` a source goes on as the one did whose
  state it got. `tests/input_pipeline/test_source.py` holds every source to this.
  """

  @property
  def windows(self) -> int:
    """How many windows it draws from, over all hosts."""

  @property
  def models(self) -> dict[str, str]:
    """Digests of the models that encoded the data, {feature: digest}; {} for plain audio."""

  def get_state(self) -> dict[str, Any]:
    """Position: values that JSON can hold. What they mean only the source itself knows.

    A reader that wants the first batches again keeps the state that a new source has.
    """

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position that `get_state` of a source of these settings returned."""

  def close(self) -> None:
    """Ends the threads and processes that read; reading again starts others."""


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
  check_choice("config.data.source", config.data.source, ("grain", "seqio"))
  _weights(config.data.weights)  # told before TensorFlow is loaded
  if not listed(config.data.path):
    raise UserError(
      "config.data.path is empty: name a dataset, or a seqio mixture with"
      " config.data.source=seqio; README, 'Train', makes one"
    )
  source: Source
  if config.data.source == "grain":
    split, paths, weights = _chosen(config.data, split)
    datasets = [Dataset(path, split) for path in paths]
    # Late: who samples has no Grain.
    from melody_jax.input_pipeline.grain_source import GrainSource

    source = GrainSource(
      datasets,
      features,
      config.window_seconds,
      config.train.batch_size,
      config.seed,
      weights,
      shuffle,
      host,
      tokenize,
      config.data.workers,
    )
    # A host without data would leave all others waiting in the first step.
    session.every_host_has_data(source.windows, f"windows of split {split}")
  else:
    from melody_jax.input_pipeline.seqio_source import SeqioSource

    source = SeqioSource(config, features, split, shuffle, host, tokenize)
    datasets = source.datasets
  if split == config.data.split:
    _tell_unheard(tokenize, datasets, split)
  return source


def _tell_unheard(tokenize: Tokenize | None, datasets: list[Dataset], split: str) -> None:
  """Says once, on one host, what of the captions the text tower will not hear."""
  if isinstance(tokenize, Tokenizer) and jax.process_index() == 0:
    captions = (
      caption
      for dataset in datasets
      # Some from everywhere tell: neighbours are of one track, and have much the same captions.
      for i in np.unique(np.linspace(0, len(dataset) - 1, _RECORDS_LOOKED_AT).astype(int))
      for caption in dataset.record(int(i)).get("captions") or ()
    )
    unheard_captions.tell(captions, tokenize, f"split {split!r}")


def _chosen(
  data: ml_collections.ConfigDict, split: str
) -> tuple[str, list[str], list[float] | None]:
  """The split to read, the datasets that have it, and their weights.

  Every dataset must have the split that trains. One to evaluate on may be missing, as in a folder
  whose owner wants all of it in training: then the others do, or the training split itself.

  Raises:
    UserError: config.data.weights does not fit.
  """
  paths = listed(data.path)
  weights = _weights(data.weights)
  if weights and len(weights) != len(paths):
    raise UserError(
      f"config.data.weights has {len(weights)} numbers for {len(paths)} datasets: give one each"
    )
  if split == data.split or split not in ("validation", "test", "test_other"):
    return split, paths, weights
  have = [has_split(path, split) for path in paths]
  if all(have) or not any(has_split(path, data.split) for path in paths):
    return split, paths, weights
  if not any(have):
    print_progress(
      f"{data.path} has no split {split!r}: what is measured on {data.split!r} instead says nothing"
      " about new music"
    )
    return data.split, paths, weights
  chosen = [path for path, has in zip(paths, have, strict=True) if has]
  kept = [weight for weight, has in zip(weights or [], have, strict=False) if has]
  print_progress(f"only {', '.join(chosen)} has a split {split!r}: the others are left out of it")
  return split, chosen, kept if any(kept) else None


def _weights(text: str) -> list[float] | None:
  try:
    weights = [float(w) for w in listed(text)]
  except ValueError as e:
    raise UserError(
      f"config.data.weights is {text!r}; it takes numbers with commas, as in 0.7,0.3"
    ) from e
  if any(not 0 <= w < math.inf for w in weights) or (weights and not any(weights)):
    raise UserError(f"config.data.weights is {text!r}: weights are 0 or more, and not all 0")
  # By the largest, as the sum of huge ones would be infinite.
  return [w / max(weights) for w in weights] or None
