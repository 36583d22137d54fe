"""seqio tasks over our datasets, and those that a user registered. Imports TensorFlow.

Each dataset becomes a seqio Task whose examples are windows, read by their number: the same rows
that Grain reads. They are shuffled over the whole of the data, and nothing is read beforehand.
"""

from collections.abc import Mapping, Sequence
import importlib
import os
import pathlib
import re

import numpy as np
import seqio
import tensorflow as tf

from melody_jax.config import listed
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import shards_of
from melody_jax.input_pipeline.windows import Windows
from melody_jax.task import Tokenize, WindowFeature


class WindowSource(seqio.DataSource):
  """seqio source of the windows of a dataset.

  Args:
    root: Directory of the dataset.
    wanted: Shape and dtype of each entry of a row, from `Task.input_features`.
    window_seconds: Length of a window in seconds.
    random_starts: True moves starts at random, to whole frames of the slowest feature. False takes
      0, 1, 2, ... window lengths.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if text is wanted.

  Raises:
    UserError: There is no dataset.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    wanted: Mapping[str, WindowFeature],
    window_seconds: float,
    random_starts: bool = True,
    tokenize: Tokenize | None = None,
  ):
    self._root, self._wanted, self._tokenize = root, wanted, tokenize
    self._window, self._moved = window_seconds, random_starts
    self._opened: dict[str, tuple[Dataset, Windows]] = {}
    splits = sorted(shards_of(root))
    if not splits:
      Dataset(root, "train")  # says what is there instead
    super().__init__(splits=splits, caching_permitted=True)

  def opened(self, split: str) -> tuple[Dataset, Windows]:
    """A split and its windows."""
    if split not in self._opened:
      dataset = Dataset(self._root, split)
      windows = Windows(dataset, self._wanted, self._window, self._tokenize)
      self._opened[split] = dataset, windows
    return self._opened[split]

  def num_input_examples(self, split: str) -> int:
    return len(self.opened(split)[1])

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [note.stem for note in shards_of(self._root)[split]]

  def get_dataset(  # type: ignore[override]
    self, split: str = "train", shuffle: bool = True, seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None, **unused,
  ) -> tf.data.Dataset:  # fmt: skip
    """Reads the windows of a split.

    Args:
      split: Name of the split.
      shuffle: Whether to shuffle them, over the whole of the split.
      seed: Seed of that shuffle and of the draws in windows; None draws one.
      shard_info: (index, count) of this host. It reads every count-th window only.
      **unused: Further options of seqio, not needed here.

    Returns:
      Dataset of rows.
    """
    del unused
    _, windows = self.opened(split)
    if seed is None:
      seed = int(np.random.SeedSequence().generate_state(1)[0])
    # Numbers are mixed by a permutation that needs no table of them.
    key = tf.constant(np.random.SeedSequence(seed).generate_state(2), tf.uint32)
    numbers = tf.data.Dataset.range(len(windows))
    if shard_info and shard_info.num_shards > 1:
      numbers = numbers.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      last = tf.constant(len(windows) - 1, tf.int64)
      numbers = numbers.map(lambda i: tf.random.experimental.index_shuffle(i, key, last))
    types = [tf.dtypes.as_dtype(feature.dtype) for feature in self._wanted.values()]

    def read(number: np.ndarray) -> list[np.ndarray]:
      rng = np.random.default_rng((seed, int(number)))
      row = windows.row(int(number), rng, self._moved)
      return [np.asarray(row[name], spec.dtype) for name, spec in self._wanted.items()]

    def row(number: tf.Tensor) -> dict[str, tf.Tensor]:
      entries = tf.numpy_function(read, [number], types)
      return {
        name: tf.ensure_shape(entry, spec.shape)
        for (name, spec), entry in zip(self._wanted.items(), entries, strict=True)
      }

    return numbers.map(row, num_parallel_calls=2, deterministic=True)


def _output_features(wanted: Mapping[str, WindowFeature]) -> dict[str, seqio.Feature]:
  """Describes a row to seqio: continuous audio and latents, vocabularies for tokens."""
  described: dict[str, seqio.Feature] = {}
  for name, spec in wanted.items():
    dtype, rank = tf.dtypes.as_dtype(spec.dtype), len(spec.shape)
    if spec.vocabulary is not None:
      tokens = seqio.PassThroughVocabulary(spec.vocabulary)
      described[name] = seqio.Feature(tokens, add_eos=False, dtype=dtype, rank=rank)
    else:
      described[name] = seqio.ContinuousFeature(dtype=dtype, rank=rank)
  return described


def add_task(
  root: str | os.PathLike,
  wanted: Mapping[str, WindowFeature],
  window_seconds: float,
  random_starts: bool = True,
  tokenize: Tokenize | None = None,
  name: str = "",
) -> seqio.Task:
  """Registers a dataset as a seqio Task. A Task of the same name is replaced.

  Args:
    root: Directory of the dataset.
    wanted: Shape and dtype of each entry of a row, from `Task.input_features`.
    window_seconds: Length of a window in seconds.
    random_starts: Whether windows start at random; `WindowSource` explains it.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if text is wanted.
    name: Name of the Task; by default that of the directory.

  Returns:
    The registered Task.

  Raises:
    UserError: There is no dataset.
  """
  name = name or re.sub(r"\W", "_", pathlib.Path(root).name)
  seqio.TaskRegistry.remove(name)
  return seqio.TaskRegistry.add(
    name,
    source=WindowSource(root, wanted, window_seconds, random_starts, tokenize),
    preprocessors=[seqio.CacheDatasetPlaceholder()],
    output_features=_output_features(wanted),
    shuffle_buffer_size=1,  # the source has shuffled all there is
  )


def add_mixture(name: str, rates: list[tuple[str, float]]) -> seqio.Mixture:
  """Registers a mixture of tasks, in the place of one of that name from before.

  Args:
    name: Name of the mixture.
    rates: (task, share) of each part.
  """
  seqio.MixtureRegistry.remove(name)
  return seqio.MixtureRegistry.add(name, rates)


def import_modules(names: str) -> None:
  """Imports the modules in which a user registers seqio tasks and mixtures.

  Args:
    names: Names of Python modules, separated by commas.

  Raises:
    UserError: A module cannot be imported.
  """
  for name in listed(names):
    try:
      importlib.import_module(name)
    except Exception as error:  # a user's code may raise anything
      raise UserError(
        f"config.data.modules: cannot import {name!r} ({type(error).__name__}: {error}); it must be"
        " on PYTHONPATH"
      ) from error


def registered(name: str) -> seqio.Task | seqio.Mixture | None:
  """The Task or Mixture that is registered under a name, or None."""
  if name not in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
    return None
  return seqio.get_mixture_or_task(name)
