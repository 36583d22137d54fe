"""Windows of one dataset by their number: where each lies, and its row of a batch.

Memory does not grow with the dataset, but for one number every few hundred records.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any, Protocol

import numpy as np

from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.task import Tokenize, WindowFeature

TEXT_FEATURES = ("text_ids", "text_mask")  # not stored: made from a record's captions
_NO_CAPTION = "music"  # music without captions still has a true one
_BLOCK = 512  # records whose windows are counted together
_AT_ONCE = 128 * _BLOCK  # records whose lengths are in memory while windows are counted
# Rounding of floats must not lose a window that fits exactly.
_TINY = 1e-6


class MadeFrom(Protocol):
  """A dataset that states what it is made from."""

  @property
  def made_from(self) -> dict[str, Any]: ...


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


def _decode(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
  """Casts stored frames to the dtype of the batch. int16 audio becomes float in [-1, 1]."""
  if name == "audio" and array.dtype == np.int16:
    return array.astype(np.float32) / 32768.0
  return array.astype(dtype)


class Windows:
  """The windows that lie end to end in the records of a dataset.

  Args:
    dataset: One split of a dataset.
    features: Shape and dtype of each entry of a row, from `Task.input_features`.
    window_seconds: Length of a window in seconds.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if features ask for
      text.

  Raises:
    UserError: The dataset lacks a feature, or no record is as long as a window.
    ValueError: Features ask for text and there is no `tokenize`.
  """

  def __init__(
    self,
    dataset: Dataset,
    features: Mapping[str, WindowFeature],
    window_seconds: float,
    tokenize: Tokenize | None = None,
  ):
    self._dataset, self._window = dataset, window_seconds
    self._features = {k: f for k, f in features.items() if k not in TEXT_FEATURES}
    self._tokenize = tokenize if any(k in features for k in TEXT_FEATURES) else None
    if any(k in features for k in TEXT_FEATURES) and tokenize is None:
      raise ValueError("features ask for text but no tokenizer was given")
    dataset.check_features(self._features)
    rates = {name: dataset.features[name].rate for name in self._features}
    # The fastest feature measures a record's length most finely; windows start at whole frames of
    # the slowest.
    self._timekeeper, self._grid = max(rates, key=lambda name: rates[name]), 1 / min(rates.values())
    self._rate, self._step = rates[self._timekeeper], max(self._grid, window_seconds)
    self._ends = self._count()

  def _counts(self, lengths: np.ndarray) -> np.ndarray:
    """Windows that fit end to end into records of some lengths in frames."""
    slots = np.floor((lengths / self._rate - self._window) / self._step + _TINY)
    return np.maximum(slots.astype(np.int64) + 1, 0)

  def _count(self) -> np.ndarray:
    """Number of windows up to the end of each block of records, int64 [blocks]."""
    lengths = self._dataset.lengths(self._timekeeper)
    sums, longest = [np.zeros(0, np.int64)], 0
    for first in range(0, len(lengths), _AT_ONCE):
      part = np.asarray(lengths[first : first + _AT_ONCE])
      longest = max(longest, int(part.max()))
      sums.append(np.add.reduceat(self._counts(part), np.arange(0, len(part), _BLOCK)))
    ends = np.cumsum(np.concatenate(sums))
    if not len(ends) or not ends[-1]:
      raise UserError(
        f"{self._dataset.where} no record is as long as a window of {self._window:g} s"
        f" (config.window_seconds), the longest has {longest / self._rate:g} s; take a shorter"
        " window or longer music"
      )
    return ends

  def __len__(self) -> int:
    return int(self._ends[-1])

  def locate(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, float]:
    """Finds a window.

    Args:
      index: Its number.
      rng: Moves its start; None leaves it where it is. Moved windows may begin at any whole frame
        of the slowest feature, each as likely as all others.

    Returns:
      (record, start in seconds).
    """
    block = int(np.searchsorted(self._ends, index, side="right"))
    first = block * _BLOCK
    lengths = np.asarray(self._dataset.lengths(self._timekeeper)[first : first + _BLOCK])
    counts = self._counts(lengths)
    ends = np.cumsum(counts)
    within = index - (int(self._ends[block - 1]) if block else 0)
    r = int(np.searchsorted(ends, within, side="right"))
    slot, slots = within - int(ends[r] - counts[r]), int(counts[r])
    if rng is None:
      return first + r, slot * self._step
    seconds = int(lengths[r]) / self._rate
    starts = math.floor((seconds - self._window) / self._grid + _TINY) + 1
    # Each of the record's windows has its share of the starts, so that an epoch hears them all.
    low, high = slot * starts // slots, (slot + 1) * starts // slots
    return first + r, int(rng.integers(low, max(high, low + 1))) * self._grid

  def row(self, index: int, rng: np.random.Generator, moved: bool) -> dict[str, np.ndarray]:
    """A row of a batch.

    Args:
      index: Number of the window.
      rng: Draws the start, if `moved`, and the caption.
      moved: Whether the window may start anywhere near its place.

    Raises:
      UserError: The frames do not fit the model.
    """
    record, start = self.locate(index, rng if moved else None)
    dataset = self._dataset
    example = dataset.example(record)
    out: dict[str, np.ndarray] = {}
    for name, spec in self._features.items():
      stored = dataset.features[name]
      first = round(start * stored.rate)
      if stored.per_window:
        array = example[name][first : first + 1].squeeze(0)
      else:
        array = example[name][first : first + round(self._window * stored.rate)]
      out[name] = _decode(name, array, spec.dtype)
      if out[name].shape != tuple(spec.shape):
        raise UserError(
          f"{name} of {dataset.record(record)['id']} has shape {out[name].shape}, the model"
          f" expects {tuple(spec.shape)}: encode the dataset with this model's bundle"
        )
    if self._tokenize:
      captions = example["captions"] or [_NO_CAPTION.encode()]
      caption = bytes(captions[int(rng.integers(len(captions)))]).decode()
      out["text_ids"], out["text_mask"] = self._tokenize(caption)
    return out
