"""Batches through seqio: tasks over our datasets, a user's tasks, and mixtures of them.

Several names in config.data.path become a Mixture. A name is the directory of a dataset, or that of
a Task or Mixture that a user registered; the rows of the latter are taken as they are. Only the
files named seqio_* here import TensorFlow.

Each epoch is a dataset of its own with a seed made of (seed, epoch), so the position of a source is
two integers. A resumed run builds the epoch again and skips the batches already seen. Where all
datasets are ours an epoch is short, as each one draws from everywhere: so little is read again.
"""

from collections.abc import Iterator, Mapping
import contextlib
import os
import re
from typing import Any

import ml_collections
import numpy as np
import seqio
import tensorflow as tf

from melody_jax.config import listed
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.seqio_tasks import (
  WindowSource,
  add_mixture,
  add_task,
  import_modules,
  registered,
)
from melody_jax.input_pipeline.windows import check_tokens, models_of
from melody_jax.multihost import session
from melody_jax.task import Tokenize, WindowFeature

_UNKNOWN_WINDOWS = 10_000  # of a task that does not tell how many examples it has
_EPOCH_BATCHES = 64  # of an epoch of our own datasets, at most


@contextlib.contextmanager
def _errors_as_ours() -> Iterator[None]:
  """Raises a UserError as itself that TensorFlow wraps where it calls Python."""
  try:
    yield
  except tf.errors.OpError as error:
    said = re.search(r"UserError: (.*)", error.message)
    if not said:
      raise
    raise UserError(said[1]) from error


class _Rows:
  """Rows of one split, as tf.data: of our tasks, of a user's, or of a mixture of both.

  Attributes:
    windows: Number of windows, see `SeqioSource.windows`.
    datasets: Our datasets among them.
    all_ours: Whether there are no others.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, WindowFeature], split: str,
    shuffle: bool, tokenize: Tokenize | None,
  ):  # fmt: skip
    import_modules(config.data.get("modules", ""))
    self._features, self._split, self._shuffle = features, split, shuffle
    self.datasets: list[Dataset] = []
    names = listed(config.data.path)
    parts = [self._part(config, name, tokenize) for name in names]
    self.windows = sum(windows for _, windows in parts)
    self.all_ours = len(self.datasets) == len(names)
    shares = [float(w) for w in listed(config.data.weights)]
    if shares and len(shares) != len(names):
      raise UserError(
        f"config.data.weights has {len(shares)} numbers for {len(names)} datasets: give one each"
      )
    self._provider = self._mixed(
      [name for name, _ in parts], shares or [float(windows) for _, windows in parts]
    )

  def _part(
    self, config: ml_collections.ConfigDict, name: str, tokenize: Tokenize | None
  ) -> tuple[str, int]:
    """(name in seqio's registry, number of windows) of one entry of config.data.path."""
    theirs = registered(name)
    if theirs is not None:
      if self._split not in theirs.splits:
        raise UserError(
          f"seqio {name!r} has no split {self._split!r}: it has {', '.join(sorted(theirs.splits))}"
        )
      # What a user's preprocessors make of an example is unknown; a source may not even know how
      # many examples it has. One row an example then is a guess that only places the epochs' ends.
      try:
        return name, theirs.num_input_examples(self._split) or _UNKNOWN_WINDOWS
      except (TypeError, ValueError):
        return name, _UNKNOWN_WINDOWS
    if not os.path.isdir(name):
      raise UserError(
        f"no seqio task or mixture {name!r} is registered (config.data.modules imports those of"
        " your own), and no dataset directory has that name"
      )
    # Two datasets may have one name, in different places.
    unique = f"ours_{len(self.datasets)}{'' if self._shuffle else '.in_order'}"
    task = add_task(name, self._features, config.window_seconds, self._shuffle, tokenize, unique)
    assert isinstance(task.source, WindowSource)
    dataset, windows = task.source.opened(self._split)
    self.datasets.append(dataset)
    return task.name, len(windows)

  def _mixed(self, names: list[str], weights: list[float]) -> seqio.Task | seqio.Mixture:
    if len(names) == 1:
      return seqio.get_mixture_or_task(names[0])
    name = ":".join(names)
    return add_mixture(name, list(zip(names, weights, strict=True)))

  def _dataset(
    self, provider: seqio.Task | seqio.Mixture, shard: seqio.ShardInfo | None, seed: int,
    epochs: int | None,
  ) -> tf.data.Dataset:  # fmt: skip
    # Our own tasks cut by themselves; a user's may ask how long each feature shall be.
    lengths = {
      name: feature.shape[0] for name, feature in self._features.items()
      if feature.shape and name in provider.output_features
    }  # fmt: skip
    try:
      rows = provider.get_dataset(
        sequence_length=lengths, split=self._split, shuffle=self._shuffle, seed=seed,
        shard_info=shard, num_epochs=epochs, try_in_mem_cache=False, trim_output_features=False,
      )  # fmt: skip
    except (TypeError, ValueError) as error:
      raise UserError(f"seqio {provider.name!r} cannot be read: {error}") from error
    return self._checked(provider.name, rows)

  def _checked(self, name: str, rows: tf.data.Dataset) -> tf.data.Dataset:
    """The rows with the entries of a batch, and no others."""
    spec = rows.element_spec
    missing = [key for key in self._features if key not in spec]
    if missing:
      raise UserError(f"seqio {name!r} lacks {', '.join(missing)}: it has {', '.join(spec)}")
    for key, feature in self._features.items():
      if not spec[key].shape.is_compatible_with(feature.shape):
        raise UserError(
          f"{key} of seqio {name!r} has shape {tuple(spec[key].shape)}, the model expects"
          f" {tuple(feature.shape)}"
        )

    def row(entries: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      return {
        key: tf.ensure_shape(tf.cast(entries[key], feature.dtype), feature.shape)
        for key, feature in self._features.items()
      }

    return rows.map(row)

  def read(self, shard: seqio.ShardInfo | None, seed: int) -> tf.data.Dataset:
    """Endless rows of a host.

    Args:
      shard: Part of this host; None for everything.
      seed: Seed of the shuffles and of all draws.
    """
    return self._dataset(self._provider, shard, seed, None)

  def datasets_with_rows(self, shard: seqio.ShardInfo | None) -> int:
    """Number of tasks of which this host has a row; 0 as soon as one has none.

    An endless dataset without rows would be searched for ever.
    """
    tasks = getattr(self._provider, "tasks", [self._provider])
    tasks = [task for task in tasks if self._split in task.splits]  # as a mixture does
    with _errors_as_ours():
      found = [bool(list(self._dataset(task, shard, 0, 1).take(1))) for task in tasks]
    return len(found) if all(found) else 0


class SeqioSource:
  """Endless batches through seqio: {feature: array [rows of this host, *shape]}.

  Args:
    config: Config of the run. data.path names directories of datasets, or tasks and mixtures that
      are registered with seqio, separated by commas; data.modules are imported before, and may
      register them. data.weights are sampling weights, by default the numbers of windows.
    features: Shape and dtype of each entry of a row, from `Task.input_features`. A registered task
      must yield them all, text_ids and text_mask included where they are asked for.
    split: Name of the split.
    shuffle: False reads the windows in order and starts again after the last.
    host: (index, count) of this host.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if features ask for
      text.

  Raises:
    UserError: A dataset, split or feature is missing, no record is as long as a window, a host has
      no window, or the hosts do not divide the batch.

  Attributes:
    datasets: Our datasets among what it reads.
    models: Digests of the models that encoded the data, {feature: digest}; {} for plain audio, and
      for a task of a user, which does not state them.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, WindowFeature], split: str,
    shuffle: bool = True, host: tuple[int, int] = (0, 1), tokenize: Tokenize | None = None,
  ):  # fmt: skip
    batch_size, hosts = config.train.batch_size, host[1]
    if batch_size % hosts:
      raise UserError(
        f"train.batch_size {batch_size} does not divide over {hosts} hosts: take a multiple"
      )
    self._shuffle, self._seed = shuffle, int(config.seed)
    self._batch, self._features = batch_size // hosts, features
    self._shard = seqio.ShardInfo(index=host[0], num_shards=hosts) if hosts > 1 else None
    self._split = split
    self._rows = _Rows(config, features, split, shuffle, tokenize)
    self.datasets = self._rows.datasets
    self.models = models_of(self.datasets)
    session.every_host_has_data(
      self._rows.datasets_with_rows(self._shard), f"windows of {config.data.path}, split {split}"
    )
    # A user's task may shuffle a part of its data only: it has to be read to its end.
    longest = _EPOCH_BATCHES if self._rows.all_ours else self._rows.windows
    self._epoch_batches = max(1, min(self._rows.windows // batch_size, longest)) if shuffle else 0
    self._epoch, self._position = 0, 0
    self._iterator: Iterator[dict[str, np.ndarray]] | None = None

  @property
  def windows(self) -> int:
    """How many windows fit end to end in the records of the split; of a registered task, how many
    examples it reads.
    """
    return self._rows.windows

  def _batches(self, epoch: int, skip: int) -> Iterator[dict[str, np.ndarray]]:
    # SeedSequence makes seeds of neighbouring epochs unrelated; the shift keeps them positive.
    seed = int(np.random.SeedSequence((self._seed, epoch)).generate_state(1)[0] >> 1)
    rows = self._rows.read(self._shard, seed)
    batches = rows.batch(self._batch, drop_remainder=True).skip(skip)
    options = tf.data.Options()
    options.deterministic = True
    # Autotune would choose buffers by timing, so that memory would differ from run to run.
    options.autotune.enabled = False
    return batches.with_options(options).prefetch(2).as_numpy_iterator()

  def __iter__(self) -> "SeqioSource":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._shuffle and self._position >= self._epoch_batches:
      self._epoch, self._position, self._iterator = self._epoch + 1, 0, None
    if self._iterator is None:
      self._iterator = self._batches(self._epoch, self._position)
    with _errors_as_ours():
      batch = next(self._iterator)
    self._position += 1
    check_tokens(batch, self._features)
    return dict(batch)

  def get_state(self) -> dict[str, Any]:
    """Position, JSON-serialisable: {"epoch", "position": batches read of that epoch}."""
    return {"epoch": self._epoch, "position": self._position}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a position that `get_state` returned."""
    self._epoch, self._position = int(state["epoch"]), int(state["position"])
    self.close()

  def close(self) -> None:
    """Ends what reads; reading again starts it."""
    self._iterator = None
