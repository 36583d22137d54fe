"""Training windows from array datasets. Needs no TensorFlow.

A batch depends only on the seed and on its position in the run. So the state of a source is one
integer, a resumed run reads exactly the batches it would have read, and each host can read its own
rows of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset
from melody_jax.task import WindowFeature


class MadeFrom(Protocol):
  """A dataset that states what it is made from."""

  @property
  def made_from(self) -> dict[str, Any]: ...


TEXT_FEATURES = ("text_ids", "text_mask")  # not stored: made from a record's captions


def _decode(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
  """Casts stored frames to the dtype of the batch. int16 audio becomes float in [-1, 1]."""
  if name == "audio" and array.dtype == np.int16:
    return array.astype(np.float32) / 32768.0
  return array.astype(dtype)


def models_of(datasets: Sequence[MadeFrom]) -> dict[str, str]:
  """Digests of the models that encoded some datasets, {feature: digest}; {} for plain audio.

  Args:
    datasets: Datasets that are read as one.

  Raises:
    UserError: Different models encoded them: a token of one means nothing in another.
  """
  found: dict[str, str] = {}
  for dataset in datasets:
    for feature, digest in dataset.made_from.get("models", {}).items():
      if found.setdefault(feature, digest) != digest:
        raise UserError(
          f"the datasets hold {feature} of different models: encode all of them with one bundle"
        )
  return found


def check_tokens(batch: Mapping[str, np.ndarray], features: Mapping[str, WindowFeature]) -> None:
  """Refuses tokens outside a model's vocabulary: looked up, they would silently become NaN.

  Args:
    batch: Entries of rows, {name: array of any shape}.
    features: Entries that the model reads, with their vocabularies.

  Raises:
    UserError: naming the feature, the token and the vocabulary.
  """
  for name, feature in features.items():
    if feature.vocabulary is None or not batch[name].size:
      continue
    low, high = int(batch[name].min()), int(batch[name].max())
    if low < 0 or high >= feature.vocabulary:
      raise UserError(
        f"the data hold {low if low < 0 else high} among their {name}, the model has"
        f" {feature.vocabulary}, from 0: encode the data with the models that this one goes with"
      )


class ArraySource:
  """Endless batches of random windows: {feature: array [rows of this host, *shape]}.

  Args:
    datasets: Datasets to mix.
    features: Shape and dtype of each entry of a row, from `Task.input_features`.
    window_seconds: Length of a window in seconds.
    batch_size: Rows of a batch over all hosts.
    seed: Seed of all random draws.
    weights: Sampling weight of each dataset. None weighs by the number of windows.
    shuffle: False reads the windows in order, each once an epoch (for evaluation).
    host: (index, count). The source yields the index-th of `count` equal parts of each batch.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if features ask for
      text.

  Raises:
    UserError: A dataset lacks a feature, no record is as long as a window, or the hosts do not
      divide the batch. Also while reading, if stored frames do not fit the model.
    ValueError: Features ask for text and there is no `tokenize`.

  Attributes:
    models: Digests of the models that encoded the data, see `models_of`.
  """

  def __init__(
    self,
    datasets: list[ArrayDataset],
    features: Mapping[str, WindowFeature],
    window_seconds: float,
    batch_size: int,
    seed: int,
    weights: list[float] | None = None,
    shuffle: bool = True,
    host: tuple[int, int] = (0, 1),
    tokenize: Callable[[str], tuple[np.ndarray, np.ndarray]] | None = None,
  ):
    self._datasets = datasets
    self._features = {k: f for k, f in features.items() if k not in TEXT_FEATURES}
    self._tokenize = tokenize if any(k in features for k in TEXT_FEATURES) else None
    if any(k in features for k in TEXT_FEATURES) and tokenize is None:
      raise ValueError("features ask for text but no tokenizer was given")
    self._window = window_seconds
    self._batch = batch_size
    self._seed = seed
    self._shuffle = shuffle
    self._host = host
    self._position = 0
    self.models = models_of(datasets)
    if batch_size % host[1]:
      raise UserError(
        f"train.batch_size {batch_size} does not divide over {host[1]} hosts: take a multiple"
      )
    self._grids = [self._grid(d) for d in datasets]
    self._records = [self._usable(d) for d in datasets]
    sizes = np.array([n for _, _, n in self._records], np.float64)
    share = sizes if weights is None else np.asarray(weights, np.float64)
    # By windows where nothing is said: each is then equally likely, whatever its dataset.
    self._weights = share / share.sum()

  def _grid(self, dataset: ArrayDataset) -> float:
    """Seconds between possible starts of windows: one frame of the slowest feature."""
    dataset.check_features(self._features)
    return max(1.0 / dataset.features[name].rate for name in self._features)

  def _usable(self, dataset: ArrayDataset) -> tuple[np.ndarray, np.ndarray, int]:
    """Records that hold a window, their cumulative window counts, and the total."""
    name = max(self._features, key=lambda n: dataset.features[n].rate)
    rate, grid = (
      dataset.features[name].rate,
      max(1.0 / dataset.features[n].rate for n in self._features),
    )
    # The fastest feature measures a record's length most finely. The small numbers below keep
    # rounding of floats from losing a window that fits exactly.
    seconds = np.array([dataset.length(i, name) / rate for i in range(len(dataset))])
    usable = np.flatnonzero(seconds + 1e-6 >= self._window)
    if not len(usable):
      longest = max(seconds, default=0.0)
      raise UserError(
        f"{dataset.where}: no record is as long as a window of {self._window:g} s"
        f" (config.window_seconds), the longest has {longest:g} s; take a shorter window or longer"
        " music"
      )
    step = grid if self._shuffle else max(grid, self._window)
    counts = np.floor((seconds[usable] - self._window) / step + 1e-6).astype(np.int64) + 1
    return usable, np.cumsum(counts), int(counts.sum())

  @property
  def windows(self) -> int:
    """Number of distinct windows. Without shuffle, only windows that do not overlap count."""
    return sum(n for _, _, n in self._records)

  def _locate(self, which: int, index: int) -> tuple[int, float]:
    """Finds the index-th window of dataset `which`: (record, start in seconds)."""
    usable, cumulative, _ = self._records[which]
    # Windows are numbered through all records; the running sum tells in which one a number lies.
    r = int(np.searchsorted(cumulative, index, side="right"))
    first = int(cumulative[r - 1]) if r else 0
    grid = self._grids[which]
    step = grid if self._shuffle else max(grid, self._window)
    return int(usable[r]), (index - first) * step

  def _draw(self, row: int) -> tuple[int, int, float, np.random.Generator]:
    # A generator for each row: no draw depends on the rows before it, or on who reads them.
    rng = np.random.default_rng((self._seed, row))
    if self._shuffle:
      which = int(rng.choice(len(self._datasets), p=self._weights))
      record, start = self._locate(which, int(rng.integers(self._records[which][2])))
      return which, record, start, rng
    index = row % self.windows
    which = 0
    while index >= self._records[which][2]:
      index -= self._records[which][2]
      which += 1
    return which, *self._locate(which, index), rng

  def _row(self, row: int) -> dict[str, np.ndarray]:
    which, record, start, rng = self._draw(row)
    dataset = self._datasets[which]
    out: dict[str, np.ndarray] = {}
    for name, spec in self._features.items():
      stored = dataset.features[name]
      first = round(start * stored.rate)
      if stored.per_window:
        array = dataset.read(record, name, first, 1)[0]
      else:
        array = dataset.read(record, name, first, round(self._window * stored.rate))
      out[name] = _decode(name, array, spec.dtype)
      if out[name].shape != tuple(spec.shape):
        raise UserError(
          f"{name} of {dataset.record(record)['id']} has shape {out[name].shape}, the model"
          f" expects {tuple(spec.shape)}: encode the dataset with this model's bundle"
        )
    if self._tokenize:
      # Music without captions still has a true one.
      captions = dataset.record(record).get("captions") or ["music"]
      out["text_ids"], out["text_mask"] = self._tokenize(captions[int(rng.integers(len(captions)))])
    return out

  def __iter__(self) -> "ArraySource":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    index, count = self._host
    size = self._batch // count
    # Rows are numbered over the whole run, so hosts agree without talking to each other.
    first = self._position * self._batch + index * size
    rows = [self._row(first + r) for r in range(size)]
    self._position += 1
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    check_tokens(batch, self._features)
    return batch

  def get_state(self) -> dict[str, Any]:
    """Position in the run, JSON-serialisable."""
    return {"position": self._position}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a position that `get_state` returned."""
    self._position = int(state["position"])
