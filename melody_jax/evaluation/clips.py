"""Held-out clips and whole tracks of array datasets, as evaluation reads them."""

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
import re
import sys
from typing import Any

import ml_collections
import numpy as np

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset


@dataclasses.dataclass(frozen=True)
class Clip:
  """One window of a record.

  Attributes:
    record: the record's JSON object.
    start: seconds from the record's beginning.
    arrays: {feature: frames of the window}; audio is float32 in [-1, 1], tokens int32.
  """

  record: dict[str, Any]
  start: float
  arrays: dict[str, np.ndarray]

  @property
  def captions(self) -> tuple[str, ...]:
    """What is said of the clip, normalised for comparison."""
    return tuple(dict.fromkeys(normalise_caption(c) for c in self.record.get("captions") or ()))

  @property
  def track(self) -> str:
    """The track that the clip was cut from."""
    return str(self.record.get("track") or self.record["id"])


def normalise_caption(text: str) -> str:
  """Lower case, single spaces, no full stop at the end: captions equal but for that are equal."""
  return " ".join(text.lower().split()).rstrip(".")


def _as_float(name: str, array: np.ndarray) -> np.ndarray:
  if name == "audio" and array.dtype == np.int16:
    return array.astype(np.float32) / 32768.0
  return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)


def named_roots(roots: str) -> dict[str, pathlib.Path]:
  """Reads "recorded=DIR,rendered=DIR"; a bare directory is named by its last part.

  Returns:
    {name: path}.

  Raises:
    UserError: if nothing is named, or a directory does not exist.
  """
  named = {}
  for item in filter(None, (part.strip() for part in roots.split(","))):
    name, _, path = item.rpartition("=")
    where = pathlib.Path(path)
    if not where.is_dir():
      raise UserError(
        f"no dataset directory {path!r} (config.data): name array datasets, comma-separated"
      )
    named[name or where.name] = where
  if not named:
    raise UserError(
      "config.data is empty: name array datasets as --config.data=recorded=DIR,rendered=DIR"
    )
  return named


def say(message: str) -> None:
  """One line of progress, on standard error."""
  print(message, file=sys.stderr, flush=True)


def datasets_of(config: ml_collections.ConfigDict, split: str) -> dict[str, ArrayDataset]:
  """The datasets of config.data that have `split`.

  Raises:
    UserError: if none has.
  """
  roots = named_roots(config.data)
  found = {
    name: ArrayDataset(root, split) for name, root in roots.items() if (root / split).is_dir()
  }
  if not found:
    raise UserError(f"none of {', '.join(map(str, roots.values()))} has a split {split!r}")
  return found


def read_windows(
  dataset: ArrayDataset, seconds: float, names: tuple[str, ...], count: int = 0, seed: int = 0
) -> list[Clip]:
  """Non-overlapping windows of a split.

  Args:
    dataset: one split.
    seconds: length of a window; shorter records give none.
    names: features to read.
    count: how many, drawn without replacement; 0 for all, in order.
    seed: decides the draw.

  Raises:
    UserError: a feature is missing, or no record is long enough.
  """
  missing = [name for name in names if name not in dataset.features]
  if missing:
    raise UserError(
      f"the array dataset lacks {', '.join(missing)}: it has {', '.join(dataset.features)}; "
      "write it with python -m melody_jax.encode"
    )
  # Feature frames are whole at multiples of the slowest stream's frame; a window is one.
  longest = max(names, key=lambda name: dataset.features[name].rate)
  rate = dataset.features[longest].rate
  places = [
    (i, w * seconds)
    for i in range(len(dataset))
    for w in range(int(dataset.length(i, longest) / rate / seconds + 1e-6))
  ]
  if not places:
    raise UserError(f"no record is as long as a window of {seconds:g} s")
  if count and count < len(places):
    chosen = np.random.default_rng(seed).choice(len(places), count, replace=False)
    places = [places[i] for i in sorted(chosen)]
  return [_clip(dataset, i, start, seconds, names) for i, start in places]


def _clip(
  dataset: ArrayDataset, i: int, start: float, seconds: float, names: tuple[str, ...]
) -> Clip:
  arrays = {}
  for name in names:
    feature = dataset.features[name]
    first = round(start * feature.rate)
    if feature.per_window:
      arrays[name] = _as_float(name, dataset.read(i, name, first, 1))[0]
    else:
      arrays[name] = _as_float(name, dataset.read(i, name, first, round(seconds * feature.rate)))
  return Clip(dataset.record(i), start, arrays)


def stack_clips(clips: list[Clip], name: str) -> np.ndarray:
  """One feature of all clips: [clips, frames, ...]."""
  return np.stack([clip.arrays[name] for clip in clips])


def batches(n: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
  """Index arrays of exactly `size` covering range(n), the last one padded by repetition.

  Equal sizes keep one compiled program; yields (indices [size], how many are real).
  """
  for first in range(0, n, size):
    real = min(size, n - first)
    yield np.minimum(np.arange(first, first + size), n - 1), real


def in_batches(function: Callable[..., Any], rows: tuple[np.ndarray, ...], size: int) -> Any:
  """Concatenates `function(*batch)` (an array, or a tuple of arrays) over batches of rows."""
  parts: list[tuple[np.ndarray, ...]] = []
  single = False
  for index, real in batches(len(rows[0]), size):
    out = function(*(array[index] for array in rows))
    single = not isinstance(out, tuple)
    parts.append(tuple(np.asarray(a)[:real] for a in ((out,) if single else out)))
  joined = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
  return joined[0] if single else joined


def whole_tracks(dataset: ArrayDataset) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
  """Yields (first record, float32 audio) of every track, its segments in order.

  A record's id is "<track>#<segment number>"; an id without a number is a track by itself.
  """
  tracks: dict[str, list[tuple[int, int]]] = {}
  for i in range(len(dataset)):
    record = dataset.record(i)
    number = re.search(r"#(\d+)$", record["id"])
    track = str(record.get("track") or record["id"])
    tracks.setdefault(track, []).append((int(number[1]) if number else 0, i))
  for track in sorted(tracks):
    segments = [i for _, i in sorted(tracks[track])]
    audio = np.concatenate([_as_float("audio", dataset.read(i, "audio")) for i in segments])
    yield dataset.record(segments[0]), audio
