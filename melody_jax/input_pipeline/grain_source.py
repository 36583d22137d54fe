"""Batches by Grain: rows by their number, in an order shuffled over the whole of the data.

The row at a place of the run depends on the seed and on that place alone. So a position is one
integer, whatever the number of hosts, threads and processes that read; going to it reads nothing;
and the rows of hosts are together those of one.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any

from absl import flags
import grain
import numpy as np

from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.windows import Windows, check_tokens, models_of
from melody_jax.task import Tokenize, WindowFeature

# Batches read ahead, and threads that make one each.
_AHEAD, _THREADS = 4, 2


class GrainSource:
  """Endless batches of windows: {feature: array [rows of this host, *shape]}.

  Args:
    datasets: Datasets to mix.
    features: Shape and dtype of each entry of a row, from `Task.input_features`.
    window_seconds: Length of a window in seconds.
    batch_size: Rows of a batch over all hosts.
    seed: Seed of the order and of all random draws.
    weights: Sampling weight of each dataset; one of weight 0 is not read. None takes all windows of
      all datasets once an epoch, so that each counts by its hours.
    shuffle: True shuffles all windows anew in each epoch, and moves their starts. False reads them
      in order, end to end (for evaluation).
    host: (index, count). The source yields the index-th of `count` equal parts of each batch.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if features ask for
      text.
    workers: Processes that read; 0 reads in threads of this one.

  Raises:
    UserError: A dataset lacks a feature, no record is as long as a window, or the hosts do not
      divide the batch. Also while reading, if stored frames do not fit the model.
    ValueError: Features ask for text and there is no `tokenize`.

  Attributes:
    models: Digests of the models that encoded the data, see `models_of`.
    windows: Number of windows that lie end to end in the records.
  """

  def __init__(
    self,
    datasets: list[Dataset],
    features: Mapping[str, WindowFeature],
    window_seconds: float,
    batch_size: int,
    seed: int,
    weights: list[float] | None = None,
    shuffle: bool = True,
    host: tuple[int, int] = (0, 1),
    tokenize: Tokenize | None = None,
    workers: int = 0,
  ):
    index, count = host
    if batch_size % count:
      raise UserError(
        f"train.batch_size {batch_size} does not divide over {count} hosts: take a multiple"
      )
    self.models = models_of(datasets)
    parts = [Windows(dataset, features, window_seconds, tokenize) for dataset in datasets]
    ends = np.cumsum([len(part) for part in parts])
    self.windows = int(ends[-1])
    # Of Grain's seeds one is for the order of rows, one for the draws in them.
    order, draws = np.random.SeedSequence(seed).generate_state(2)
    numbers = _in_order(ends, weights, int(order)) if shuffle else _all(0, self.windows).repeat()
    rows = numbers.random_map(functools.partial(_row, parts, ends, shuffle), seed=int(draws))
    # Of a batch of all hosts this one takes a part; the next one lies behind those of the others.
    batches = rows.batch(batch_size // count, drop_remainder=True)[index::count]
    self._batches = batches.map(functools.partial(_checked, dict(features)))
    self._workers = workers
    self._position = 0
    self._iterator: grain.DatasetIterator | None = None

  def __iter__(self) -> "GrainSource":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._iterator is None:
      # Reading begins only here: a source that only tells its size starts no threads.
      ahead = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
      batches = self._batches[self._position :].to_iter_dataset(ahead)
      if self._workers:
        # Grain asks absl for flags of its own, and our commands do not use absl's.
        if not flags.FLAGS.is_parsed():
          flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
      self._iterator = iter(batches)
    batch = next(self._iterator)
    self._position += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    """Position in the run, JSON-serialisable."""
    return {"position": self._position}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a position that `get_state` returned."""
    self.close()
    self._position = int(state["position"])

  def close(self) -> None:
    """Ends the threads and processes that read; reading again starts others."""
    if self._iterator is not None:
      self._iterator.close()
    self._iterator = None


def _all(first: int, end: int) -> grain.MapDataset:
  return grain.MapDataset.source(range(first, end))


def _in_order(ends: np.ndarray, weights: list[float] | None, seed: int) -> grain.MapDataset:
  """Numbers of windows over all datasets, shuffled, without end."""
  if weights is None:
    return _all(0, int(ends[-1])).shuffle(seed=seed).repeat()
  firsts = [0, *map(int, ends[:-1])]
  read = [
    (_all(first, int(end)).shuffle(seed=(seed + number) % 2**32).repeat(), weight)
    for number, (first, end, weight) in enumerate(zip(firsts, ends, weights, strict=True))
    if weight
  ]
  return grain.MapDataset.mix([part for part, _ in read], [weight for _, weight in read])


def _checked(
  features: Mapping[str, WindowFeature], batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  check_tokens(batch, features)
  return batch


def _row(
  parts: list[Windows], ends: np.ndarray, moved: bool, number: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
  which = int(np.searchsorted(ends, number, side="right"))
  return parts[which].row(number - (int(ends[which - 1]) if which else 0), rng, moved)


class _Prepared(grain.DatasetIterator):
  """A source whose batches are worked on, as Grain's reading ahead wants it."""

  def __init__(self, source: Any, prepare: Callable[[Any], Any]):
    super().__init__()
    self._source, self._prepare = source, prepare

  def __next__(self) -> Any:
    return self._prepare(next(self._source))

  def get_state(self) -> dict[str, Any]:
    return self._source.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    self._source.set_state(state)

  def close(self) -> None:
    self._source.close()


def ahead(source: Any, prepare: Callable[[Any], Any], depth: int = 2) -> Any:
  """A source that reads its next batches in a thread, so that devices do not wait for the disk.

  Batches, order and positions stay the same.

  Args:
    source: Any source. From now on only the thread may use it.
    prepare: Work on each batch on the host (`Task.prepare`). It runs in the thread as well.
    depth: Number of batches kept ready.

  Returns:
    Iterator with `get_state` and `set_state` of the source, and `close`, which ends the thread.
  """
  return grain.experimental.ThreadPrefetchDatasetIterator(_Prepared(source, prepare), depth)
