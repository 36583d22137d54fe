"""Random access to the records of one split of a dataset. Needs no TensorFlow."""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import os
import pathlib
import resource
import threading
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.input_pipeline.shards import (
  INFO,
  Feature,
  announced,
  data_file,
  features_of,
  folder_of,
  read_note,
  record_of,
  schema,
  shards_of,
)
from melody_jax.places import buckets


def has_split(root: str | os.PathLike, split: str) -> bool:
  """Whether the dataset at `root` has shards of a split, all of them or some."""
  return split in shards_of(root)


def _nothing_there(root: pathlib.Path, split: str) -> str:
  """Why a split cannot be opened, and what to do."""
  if not root.is_dir():
    return f"no dataset directory {root} (split {split}): check the path"
  others = sorted(shards_of(root))
  if others:
    return f"{root} has no split {split!r}: it has {', '.join(others)}"
  below = sorted({p.parent.parent.name for p in root.glob(f"[!.]*/[!.]*/{INFO}")})
  if below:
    return f"{root} is no dataset, but holds some: name one of {', '.join(below)} in it"
  if any(root.glob("*/shard-*-of-*/index.json")):
    return f"{root} is of an older version: build or encode it again"
  if any(root.rglob(INFO)):
    return f"{root} holds a TFDS dataset without the notes that our builders write: build it anew"
  return (
    f"{root} is no dataset: python -m data.music_folder makes one of audio files,"
    " python -m melody_jax.encode one of tokens and latents"
  )


class Dataset:
  """Random access to the records of one split. Iteration yields (record, arrays) in order.

  It may be read by several threads, and pickled for other processes.

  Args:
    root: Directory of the dataset.
    split: Name of the split ("train", "validation", ...).

  Attributes:
    where: Directory and split, for messages.
    features: Layout of each stored feature.
    made_from: What its shards state that they are made from; {} where they do not.

  Raises:
    UserError: The split is missing, not all of its shards are there, or shards of different builds
      lie side by side.
  """

  def __init__(self, root: str | os.PathLike, split: str):
    buckets.refuse(root, "datasets to read")
    root = pathlib.Path(root)
    shards = shards_of(root)
    notes = shards.get(split)
    if not notes:
      raise UserError(_nothing_there(root, split))
    self.where = f"{root}, split {split},"
    states = [read_note(note) for note in notes]
    first = states[0]
    _refuse_mixture(root, shards, split, states)
    # Every shard's name tells how many there are, so a dataset half written is noticed.
    folder = folder_of(root)
    self._files = [str(data_file(folder, note.name.removesuffix(".json"))) for note in notes]
    whole = sum(
      bool(state) and os.path.exists(file) for state, file in zip(states, self._files, strict=True)
    )
    if whole != announced(notes[0]) or not (folder / INFO).exists():
      audio = set(first.get("features", {})) <= {"audio"}
      writer = "its builder (python -m data....)" if audio else "python -m melody_jax.encode"
      raise UserError(
        f"{self.where} has {whole} of {announced(notes[0])} shards: run {writer} again, to its end"
      )
    self.features: dict[str, Feature] = features_of(first["features"])
    self.made_from: dict[str, Any] = first.get("made_from") or {}
    self._sizes = [state["records"] for state in states]
    self._lengths_file = str(folder / f"lengths-{split}.npy")
    self._open()

  def _open(self) -> None:
    # Mapped, not read: of a million hours they are gigabytes.
    self._lengths = np.load(self._lengths_file, mmap_mode="r")
    self._names = list(self.features)
    self._schema = schema(self.features)
    self._records = _Records(self._files, self._sizes)
    self._last: tuple[int, dict[str, Any]] = (-1, {})

  def __getstate__(self) -> dict[str, Any]:
    left_here = ("_lengths", "_schema", "_records", "_last")
    return {k: v for k, v in self.__dict__.items() if k not in left_here}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._open()

  def check_features(self, names: Iterable[str]) -> None:
    """Refuses a dataset that lacks one of the features.

    Raises:
      UserError: naming what is missing, and the command that makes it.
    """
    missing = [name for name in names if name not in self.features]
    if missing:
      how = "name the dataset of its builder (python -m data....)"
      if "audio" not in missing:
        how = "make them of it with python -m melody_jax.encode"
      raise UserError(
        f"{self.where} lacks {', '.join(missing)}: it has {', '.join(self.features)}; {how}"
      )

  def __len__(self) -> int:
    return self._lengths.shape[1]

  def lengths(self, name: str) -> np.ndarray:
    """Numbers of frames of feature `name`, int32 [records], mapped from the disk."""
    return self._lengths[self._names.index(name)]

  def length(self, i: int, name: str) -> int:
    """Number of frames of feature `name` in record `i`."""
    return int(self.lengths(name)[i])

  def example(self, i: int) -> dict[str, Any]:
    """All fields of record `i`, as TFDS has them: texts as bytes, features [frames, ...]."""
    index, example = self._last
    if index != i:
      example = self._schema.deserialize_example_np(self._records[i])
      # Whoever asks for one feature of a record asks for others next.
      self._last = (i, example)
    return example

  def record(self, i: int) -> dict[str, Any]:
    """Entries of record `i` without its features."""
    return record_of(self.example(i))

  def read(self, i: int, name: str, start: int = 0, frames: int | None = None) -> np.ndarray:
    """Frames of one feature of one record.

    Args:
      i: Number of the record.
      name: Name of the feature.
      start: First frame, counted in the record.
      frames: Number of frames. None reads to the end. Near the end there may be fewer.

    Returns:
      Array [frames, *shape of a frame] in the dtype on disk. It may be a view of the whole record.
    """
    return self.example(i)[name][start : None if frames is None else start + frames]

  def __iter__(self) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    for i in range(len(self)):
      yield self.record(i), {name: self.read(i, name) for name in self.features}


class _Records:
  """Serialised records of several files by their number; safe for threads.

  ArrayRecord's own source keeps every file open that it read from, one for each shard: more than a
  process may have, for a large dataset. Here files that were not read for longest are closed.
  """

  def __init__(self, files: list[str], sizes: list[int]):
    self._files, self._ends = files, np.cumsum(sizes)
    self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
    self._lock = threading.Lock()
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if len(files) > allowed // 2:
      with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        allowed = most
    # Half of what there is: other datasets, and all else that is open, need some, too.
    self._most_open = max(1, allowed // 2)

  def __getitem__(self, i: int) -> bytes:
    from array_record.python import array_record_module

    file = int(np.searchsorted(self._ends, i, side="right"))
    with self._lock:
      reader = self._readers.pop(file, None)
      if reader is None:
        reader = array_record_module.ArrayRecordReader(
          self._files[file], "readahead_buffer_size:0", file_reader_buffer_size=1 << 15
        )
      self._readers[file] = reader
      if len(self._readers) > self._most_open:
        # Closed by its destructor: another thread may still read from it.
        self._readers.popitem(last=False)
    return reader.read([i - (int(self._ends[file - 1]) if file else 0)])[0]


def _refuse_mixture(
  root: pathlib.Path, shards: dict[str, list[Any]], split: str, states: list[dict[str, Any]]
) -> None:
  """Raises UserError where shards of the split, or of splits beside it, are of other builds."""

  def build(found: dict[str, Any]) -> tuple[Any, ...]:
    return found.get("features"), found.get("made_from")

  notes = shards[split]
  found = list(zip(notes, states, strict=True))
  found += [(others[0], read_note(others[0])) for name, others in shards.items() if name != split]
  others = [note for note, state in found if build(state) != build(states[0])]
  if len({announced(note) for note in notes}) > 1 or others:
    other = others[0] if others else notes[-1]
    raise UserError(
      f"{root} mixes what was made at different times: shard {other.stem} is not of the same"
      f" sources, models or shards as {notes[0].stem}; build or encode all splits again, or delete"
      " the old ones"
    )
