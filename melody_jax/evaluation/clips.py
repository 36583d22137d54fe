"""Held-out clips and whole tracks of datasets, as evaluation reads them."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import pathlib
import re
from typing import Any

import ml_collections
import numpy as np

from melody_jax.config import listed
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset, has_split
from melody_jax.input_pipeline.shards import shards_of
from melody_jax.progress import print_progress

# Where a split is missing, the next of these is measured on: what no model heard comes first.
_IN_ITS_PLACE = ("test", "validation", "test_other", "train")


@dataclasses.dataclass(frozen=True)
class Clip:
  """One window of a record.

  Attributes:
    record: JSON object of the record that the window was cut from.
    start: Start of the window in the record, in seconds.
    arrays: {feature: array [frames, ...]} of the window. Audio is float32 in [-1, 1], tokens are
      int32.
  """

  record: dict[str, Any]
  start: float
  arrays: dict[str, np.ndarray]

  @property
  def captions(self) -> tuple[str, ...]:
    """Captions of the record, normalised for comparison, each once."""
    return tuple(dict.fromkeys(normalise_caption(c) for c in self.record.get("captions") or ()))

  @property
  def track(self) -> str:
    """The track that the clip was cut from."""
    return str(self.record.get("track") or self.record["id"])


def normalise_caption(text: str) -> str:
  """The caption in lower case, with single spaces and without a full stop at its end."""
  return " ".join(text.lower().split()).rstrip(".")


def _as_float(name: str, array: np.ndarray) -> np.ndarray:
  if name == "audio" and array.dtype == np.int16:
    # Datasets store audio as int16, which halves the disk; models expect float32 in [-1, 1].
    return array.astype(np.float32) / 32768.0
  return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)


def named_roots(roots: str) -> dict[str, pathlib.Path]:
  """Parses config.data, for example "recorded=DIR,rendered=DIR".

  A directory without a name gets the last part of its path as its name.

  Returns:
    {name: path}.

  Raises:
    UserError: if nothing is named, or a directory does not exist.
  """
  named: dict[str, pathlib.Path] = {}
  for item in listed(roots):
    # rpartition, because an item without "=" is then all path and has no name.
    name, _, path = item.rpartition("=")
    where = pathlib.Path(path)
    if not path or not where.is_dir():
      raise UserError(
        f"no dataset directory {path!r} (config.data): name datasets, comma-separated"
      )
    name = name or where.name
    if named.setdefault(name, where) != where:
      raise UserError(
        f"two datasets are named {name!r} (config.data): name them as a={named[name]},b={where}"
      )
  if not named:
    raise UserError(
      "config.data is empty: name datasets as --config.data=recorded=DIR,rendered=DIR"
    )
  return named


def existing_split(data: str, wanted: str) -> str:
  """The split to measure on: the one that is wanted, or what the datasets have in its place.

  Args:
    data: config.data, see `named_roots`.
    wanted: Name of a split.

  Returns:
    `wanted` where a dataset has it, else the next of test, validation, test_other and train.

  Raises:
    UserError: if no dataset has any of them, or `named_roots` finds something wrong.
  """
  roots = named_roots(data).values()
  for split in (wanted, *_IN_ITS_PLACE):
    if any(has_split(root, split) for root in roots):
      return split
  raise UserError(
    f"{', '.join(map(str, roots))}: no split {', '.join(dict.fromkeys((wanted, *_IN_ITS_PLACE)))}"
    " (config.data): name directories of datasets"
  )


def datasets_of(config: ml_collections.ConfigDict, split: str) -> dict[str, Dataset]:
  """Opens the datasets of config.data that have a split of this name; names the others.

  Returns:
    {name: dataset}.

  Raises:
    UserError: if none of them has that split.
  """
  roots = named_roots(config.data)
  # A dataset may lack a split: only the recorded one holds out whole packages, for example.
  found = {name: Dataset(root, split) for name, root in roots.items() if has_split(root, split)}
  for name in roots.keys() - found.keys() if found else ():
    print_progress(f"{name} has no split {split!r}: it is left out")
  if not found:
    splits = sorted({name for root in roots.values() for name in shards_of(root)})
    has = f"they have {', '.join(splits)}" if splits else "they hold no dataset"
    raise UserError(
      f"none of {', '.join(map(str, roots.values()))} (config.data) has a split {split!r}: {has}"
    )
  return found


def read_windows(
  dataset: Dataset, seconds: float, names: tuple[str, ...], count: int = 0, seed: int = 0
) -> list[Clip]:
  """Reads windows of a split that do not overlap.

  Args:
    dataset: One split of a dataset.
    seconds: Length of a window. A shorter record gives no window.
    names: Names of the features to read.
    count: Number of windows, drawn without replacement. 0 means all of them, in order.
    seed: Seed of the draw.

  Returns:
    The windows, in the order of their records.

  Raises:
    UserError: if a feature is missing, or no record is long enough.
  """
  dataset.check_features(names)
  # The feature with the most frames a second measures a record's length most exactly: a slow one
  # rounds it to whole frames.
  longest = max(names, key=lambda name: dataset.features[name].rate)
  rate = dataset.features[longest].rate
  places = [
    (i, w * seconds)
    for i in range(len(dataset))
    for w in range(int(dataset.length(i, longest) / rate / seconds + 1e-6))
  ]
  if not places:
    raise UserError(
      f"{dataset.where} no record is as long as a window of {seconds:g} s"
      " (config.window_seconds): take a shorter window or longer music"
    )
  if count and count < len(places):
    chosen = np.random.default_rng(seed).choice(len(places), count, replace=False)
    # In order, so that the memory-mapped shards are read from front to back.
    places = [places[i] for i in sorted(chosen)]
  return [_clip(dataset, i, start, seconds, names) for i, start in places]


def _clip(dataset: Dataset, i: int, start: float, seconds: float, names: tuple[str, ...]) -> Clip:
  arrays = {}
  for name in names:
    feature = dataset.features[name]
    first = round(start * feature.rate)
    if feature.per_window:
      # Such a feature (style tokens) has one entry for a whole window and no axis of time.
      arrays[name] = _as_float(name, dataset.read(i, name, first, 1))[0]
    else:
      arrays[name] = _as_float(name, dataset.read(i, name, first, round(seconds * feature.rate)))
  return Clip(dataset.record(i), start, arrays)


def stack_clips(clips: list[Clip], name: str) -> np.ndarray:
  """One feature of all clips: [clips, frames, ...]."""
  return np.stack([clip.arrays[name] for clip in clips])


def batches(n: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
  """Cuts range(n) into batches of exactly `size` indices.

  The last batch is filled up by repeating its last index. Batches of one size need one compiled
  program only.

  Yields:
    (int64 indices [size], number of them that are not repetitions).
  """
  for first in range(0, n, size):
    real = min(size, n - first)
    yield np.minimum(np.arange(first, first + size), n - 1), real


def with_all(
  by_dataset: Mapping[str, tuple[np.ndarray, ...]],
) -> dict[str, tuple[np.ndarray, ...]]:
  """Adds "all", the arrays of all datasets joined.

  Args:
    by_dataset: {dataset: arrays [N, ...]}, equally many of each dataset.

  Returns:
    The same and, as its last entry, "all". With one dataset alone it would repeat that one, and is
    left out.
  """
  if len(by_dataset) < 2:
    return dict(by_dataset)
  joined = tuple(np.concatenate(parts) for parts in zip(*by_dataset.values(), strict=True))
  return {**by_dataset, "all": joined}


def in_batches(function: Callable[..., Any], rows: tuple[np.ndarray, ...], size: int) -> Any:
  """Calls a function on batches of rows and concatenates what it returns.

  Args:
    function: Maps arrays [size, ...] to an array [size, ...], or to a tuple of such arrays.
    rows: Arrays [N, ...], all with the same N.
    size: Rows of each call. Every call has this size, see `batches`.

  Returns:
    An array [N, ...], or a tuple of them where the function returns a tuple.
  """
  parts: list[tuple[np.ndarray, ...]] = []
  single = False
  for index, real in batches(len(rows[0]), size):
    out = function(*(array[index] for array in rows))
    single = not isinstance(out, tuple)
    # Copied to the host at once, so that the device holds one batch at a time.
    parts.append(tuple(np.asarray(a)[:real] for a in ((out,) if single else out)))
  joined = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
  return joined[0] if single else joined


def whole_tracks(dataset: Dataset) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
  """Joins the segments of every track of a dataset.

  A record's id is "<track>#<segment number>". An id without a number is a track of one segment.

  Yields:
    (record of the first segment, float32 audio [samples] of the whole track), sorted by track.
  """
  tracks: dict[str, list[tuple[int, int]]] = {}
  for i in range(len(dataset)):
    record = dataset.record(i)
    # By number, not by text: "#10" comes after "#9".
    number = re.search(r"#(\d+)$", record["id"])
    track = str(record.get("track") or record["id"])
    tracks.setdefault(track, []).append((int(number[1]) if number else 0, i))
  for track in sorted(tracks):
    segments = [i for _, i in sorted(tracks[track])]
    audio = np.concatenate([_as_float("audio", dataset.read(i, "audio")) for i in segments])
    yield dataset.record(segments[0]), audio
