"""Datasets on disk: those of TFDS in ArrayRecord format, written by shards, without TensorFlow.

    <root>/1.0.0/
      dataset_info.json  features.json  metadata.json    TFDS; written when a split is complete
      music-train.array_record-00000-of-00004            records: texts, features [frames, ...]
      lengths-train.npy                                  int32 [features, records]: frames
      shards/train-00000-of-00004.json, .npy             a note a shard: what it was made from

`tfds.data_source(name, data_dir=parent of root, split=...)` reads them without any of this code.

All features of a record cover the same time, each at its own rate. A window therefore starts at a
whole frame of the slowest feature. `style_tokens` is different: its frame i describes the whole
window that starts at i / rate seconds.

All shards of a dataset, in all of its splits, were made from the same: a reader refuses shards of
different `made_from`, which an interrupted or partly repeated build leaves.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any

import numpy as np

from melody_jax.places import buckets

VERSION = "1.0.0"
INFO = "dataset_info.json"
# One name for all: a folder may be renamed, or have a name that TFDS does not take.
NAME = "music"
_NOTES = "shards"
_TEXTS = ("id", "track", "package", "licence", "author", "source", "title")
_LISTS = ("captions", "tags")
# A group is read as a whole, so that a record is one; noise-like samples hardly shrink, and
# unpacking them took 19 ms a record of 30 s where reading it as it is took 3 ms.
_OPTIONS = "group_size:1,uncompressed"

# Ends of lines to some readers though not to JSON, and halves of characters, which UTF-8 lacks.
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


def json_text(entries: Any, indent: int | None = None) -> str:
  """JSON with letters of all languages as such, safe for readers that know other ends of lines.

  Args:
    entries: JSON-serialisable object.
    indent: Indentation of nested entries; None for all on one line.
  """
  text = json.dumps(entries, ensure_ascii=False, indent=indent)
  return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@dataclasses.dataclass(frozen=True)
class Feature:
  """How one feature is stored.

  Attributes:
    rate: Frames per second of audio.
    dtype: Name of the numpy dtype on disk.
    shape: Shape of one frame; () for a scalar.
    per_window: Whether one frame describes a whole window that starts at it (style tokens).
  """

  rate: float
  dtype: str
  shape: tuple[int, ...] = ()
  per_window: bool = False


def layout_of(features: dict[str, Feature]) -> dict[str, Any]:
  """The layout as JSON has it: tuples are lists there."""
  return {k: {**dataclasses.asdict(f), "shape": list(f.shape)} for k, f in features.items()}


def features_of(layout: dict[str, Any]) -> dict[str, Feature]:
  """The features that `layout_of` wrote down."""
  return {k: Feature(**{**spec, "shape": tuple(spec["shape"])}) for k, spec in layout.items()}


def schema(features: dict[str, Feature]) -> Any:
  """The `tfds.features.FeaturesDict` of a record.

  Args:
    features: Layout of each stored feature. Its tensor has shape [frames, *feature.shape].
  """
  import tensorflow_datasets as tfds

  fields: dict[str, Any] = {name: tfds.features.Text() for name in (*_TEXTS, "facts")}
  for name in _LISTS:
    fields[name] = tfds.features.Sequence(tfds.features.Text())
  fields["seconds"] = np.float64
  for name, feature in features.items():
    # Stored as bytes: TFDS would otherwise widen every sample to a 64-bit integer.
    fields[name] = tfds.features.Tensor(
      shape=(None, *feature.shape),
      dtype=np.dtype(feature.dtype),
      encoding=tfds.features.Encoding.BYTES,
    )
  return tfds.features.FeaturesDict(fields)


def _fields(record: dict[str, Any]) -> dict[str, Any]:
  """The texts, lists and seconds of a record; whatever they do not hold goes into `facts`."""

  def text(entry: Any) -> str:
    # Half of a character, which a broken tag may hold, is no text to TFDS.
    return str(entry).encode("utf-8", "replace").decode()

  known: dict[str, Any] = {name: text(record.get(name, "")) for name in _TEXTS}
  known |= {name: [text(entry) for entry in record.get(name, ())] for name in _LISTS}
  known["seconds"] = float(record.get("seconds", 0.0))
  facts = {k: v for k, v in record.items() if not v or known.get(k) != v}
  return {**known, "facts": json_text(facts)}


def record_of(example: dict[str, Any]) -> dict[str, Any]:
  """The record that an example of a dataset was written from, without its arrays."""
  record: dict[str, Any] = {k: bytes(example[k]).decode() for k in _TEXTS}
  record |= {k: [bytes(text).decode() for text in example[k]] for k in _LISTS}
  record["seconds"] = float(example["seconds"])
  # What was never said is empty in the example.
  return {k: v for k, v in record.items() if v} | json.loads(example["facts"])


def folder_of(root: str | os.PathLike) -> Any:
  """The directory of a dataset's files: itself, or that of its version in `root`."""
  place = buckets.path_of(root)
  return place if place.name == VERSION or (place / INFO).exists() else place / VERSION


def shard_name(split: str, shard: int, n_shards: int) -> str:
  """Name of a shard's note, without its end."""
  return f"{split}-{shard:05d}-of-{n_shards:05d}"


def data_file(folder: Any, name: str) -> Any:
  """Where the records of a shard lie, by the name of its note."""
  split, numbers = name[:-15], name[-14:]
  return folder / f"{NAME}-{split}.array_record-{numbers}"


class ShardWriter:
  """Writes one shard. It gets its final name in `close`, so readers never see half a shard.

  Args:
    root: Directory of the dataset; made if missing.
    split: Name of the split.
    shard: Number of the shard, from 0.
    n_shards: Number of shards of the split.
    features: Layout of each feature.
    made_from: What the dataset is made from, values that JSON can hold; the same for all shards.
    origin: Where that lies, for messages: a folder, another dataset.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    split: str,
    shard: int,
    n_shards: int,
    features: dict[str, Feature],
    made_from: dict[str, Any] | None = None,
    origin: str = "",
  ):
    from array_record.python import array_record_module

    self._about = {"features": layout_of(features), "made_from": made_from, "origin": origin}
    self._folder = folder_of(root)
    self._name = shard_name(split, shard, n_shards)
    self._features, self._schema = features, schema(features)
    # Shards of a bucket are written on a disk; hidden, as readers look at the notes alone.
    beside = None if buckets.in_bucket(self._folder) else self._folder
    if beside:
      beside.mkdir(parents=True, exist_ok=True)
      for left in beside.glob(f".{self._name}-*"):  # of a writer that was killed
        shutil.rmtree(left, ignore_errors=True)
    self._temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{self._name}-", dir=beside))
    # Records go to disk at once: a shard may be larger than the memory.
    self._writer = array_record_module.ArrayRecordWriter(
      str(data_file(self._temporary, self._name)), _OPTIONS
    )
    self._lengths: list[list[int]] = []
    self._sha, self._bytes = hashlib.sha256(), 0

  def write(self, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Appends one record.

    Args:
      record: JSON-serialisable entries: id, captions, tags, licence, ...
      arrays: Every feature by name, [frames, *shape of a frame]. Cast to the dtype on disk.

    Raises:
      ValueError: A feature is missing, not announced, or has frames of another shape.
    """
    if set(arrays) != set(self._features):
      raise ValueError(
        f"record {record.get('id')}: features {sorted(arrays)}, expected {sorted(self._features)}"
      )
    fields = _fields(record)
    self._sha.update(json.dumps(fields, sort_keys=True).encode())
    for name, feature in self._features.items():
      array = np.ascontiguousarray(arrays[name], dtype=feature.dtype)
      if array.shape[1:] != tuple(feature.shape):
        raise ValueError(
          f"record {record.get('id')}: {name} has frames of shape {array.shape[1:]},"
          f" expected {feature.shape}"
        )
      self._sha.update(array.data)
      fields[name] = array
    self._lengths.append([len(fields[name]) for name in self._features])
    content = self._schema.serialize_example(fields)
    self._writer.write(content)
    self._bytes += len(content)

  def close(self) -> Any:
    """Finishes the shard and renames it into place; the last one makes the dataset readable.

    Returns:
      Path of the shard's note.
    """
    self._writer.close()
    lengths = np.array(self._lengths, np.int32).reshape(-1, len(self._features)).T
    about = {"records": lengths.shape[1], "bytes": self._bytes, "sha256": self._sha.hexdigest()}
    np.save(self._temporary / f"{self._name}.npy", lengths)
    note = self._temporary / f"{self._name}.json"
    note.write_text(json.dumps(self._about | about), encoding="utf-8")
    notes = self._folder / _NOTES
    # What is replaced is gone before the new one comes: no note ever stands for other records.
    for old in (self._folder / INFO, notes / note.name):
      old.unlink(missing_ok=True)
    data = data_file(self._temporary, self._name)
    for source, target in ((data, self._folder), (lengths_file(note), notes), (note, notes)):
      _move(source, target / source.name)
    shutil.rmtree(self._temporary, ignore_errors=True)
    finish(self._folder)
    return notes / note.name

  def drop(self) -> None:
    """Removes what was written, for a shard that will not be finished."""
    self._writer.close()
    shutil.rmtree(self._temporary, ignore_errors=True)


def _move(source: pathlib.Path, target: Any) -> None:
  if buckets.in_bucket(target):
    buckets.write_all({target: source})
  else:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def lengths_file(note: Any) -> Any:
  """Where the lengths of a shard lie, int32 [features, records], beside its note."""
  return note.with_name(f"{note.name.removesuffix('.json')}.npy")


def read_note(note: Any) -> dict[str, Any]:
  """What a shard states: "features", "made_from", "origin", ...; {} where that is damaged."""
  try:
    found = json.loads(note.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def shards_of(root: str | os.PathLike) -> dict[str, list[Any]]:
  """The notes of the shards below a directory, {split: paths in order}."""
  found: dict[str, list[Any]] = {}
  for path in sorted((folder_of(root) / _NOTES).glob("*-?????-of-?????.json")):
    found.setdefault(path.name[:-20], []).append(path)
  return found


def announced(note: Any) -> int:
  """How many shards a split has, as the name of one of them says."""
  return int(note.name[-10:-5])


def remove_shard(note: Any) -> None:
  """Removes a shard and its note; the dataset has to be finished anew."""
  folder = note.parent.parent
  data = data_file(folder, note.name.removesuffix(".json"))
  for path in (folder / INFO, note, lengths_file(note), data):
    path.unlink(missing_ok=True)


def is_current(note: Any, features: dict[str, Feature], made_from: dict[str, Any]) -> bool:
  """Whether a shard is there, has these features and was made from the same."""
  found = read_note(note)
  return found.get("made_from") == made_from and found.get("features") == layout_of(features)


def note_of(root: str | os.PathLike, split: str, shard: int, n_shards: int) -> Any:
  """Path of the note of a shard, whether it is there or not."""
  return folder_of(root) / _NOTES / f"{shard_name(split, shard, n_shards)}.json"


def digest(root: str | os.PathLike) -> str:
  """SHA-256 over records and features of a dataset, all splits; the same for equal contents.

  Shards state the digests of their records, so that nothing but their notes is read.
  """
  sha = hashlib.sha256()
  for notes in shards_of(root).values():
    for note in notes:
      found = read_note(note)
      sha.update(json.dumps([note.name, found.get("features"), found.get("sha256")]).encode())
  return sha.hexdigest()


def finish(root: str | os.PathLike) -> None:
  """Writes what TFDS reads first, of the splits that are complete; of none if they do not match.

  Whoever closes the last shard of a split does it. Two who do it at once write the same.

  Args:
    root: Directory of the dataset.
  """
  folder = folder_of(root)
  shards = shards_of(folder)
  whole = {split: notes for split, notes in shards.items() if len(notes) == announced(notes[-1])}
  if not whole:
    return
  states = {split: [read_note(note) for note in notes] for split, notes in whole.items()}
  builds = {
    json.dumps([s.get("features"), s.get("made_from")], sort_keys=True)
    for notes in states.values()
    for s in notes
  }
  # Of a damaged note nothing is known: its shard has to be written again.
  if len(builds) > 1 or not all(s.get("features") for notes in states.values() for s in notes):
    return
  features = features_of(next(iter(states.values()))[0]["features"])
  # On the disk of the dataset, so that renaming works: readers see no half of a file.
  beside = None if buckets.in_bucket(folder) else folder
  with tempfile.TemporaryDirectory(prefix=".finish-", dir=beside) as name:
    temporary = pathlib.Path(name)
    for split, notes in whole.items():
      parts = [np.load(_local(lengths_file(note))) for note in notes]
      np.save(temporary / f"lengths-{split}.npy", np.concatenate(parts, 1))
    _write_info(temporary, features, states)
    # Last, as it tells readers that all the rest is there.
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == INFO):
      _move(path, folder / path.name)


def _local(path: Any) -> Any:
  """What numpy can load: a file of a bucket has to be read whole."""
  return io.BytesIO(path.read_bytes()) if buckets.in_bucket(path) else path


def _write_info(
  where: pathlib.Path, features: dict[str, Feature], states: dict[str, list[dict[str, Any]]]
) -> None:
  import tensorflow_datasets as tfds

  identity = tfds.core.dataset_info.DatasetIdentity(
    name=NAME, version=tfds.core.Version(VERSION), data_dir=str(where), module_name=""
  )
  rates = {k: {"rate": f.rate, "per_window": f.per_window} for k, f in features.items()}
  info = tfds.core.DatasetInfo(
    builder=identity,
    features=schema(features),
    metadata=tfds.core.MetadataDict(features=rates),
  )
  info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
  template = tfds.core.ShardedFileTemplate(
    data_dir=where, dataset_name=NAME, filetype_suffix="array_record"
  )
  info.set_splits(
    tfds.core.splits.SplitDict(
      [
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[note["records"] for note in notes],
          num_bytes=sum(note["bytes"] for note in notes),
          filename_template=template.replace(split=split),
        )
        for split, notes in states.items()
      ]
    )
  )
  info.write_to_directory(where)
