"""Opens the TFDS datasets that `data/` built. Imports TensorFlow.

The directory of a dataset holds its schema, and as metadata the rate of each feature. The code of
the builders is not needed.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import Feature
from melody_jax.places import buckets

Reader = Callable[[Iterable[int]], Iterator[tuple[dict[str, Any], np.ndarray]]]
BUILD = "build.json"
_LISTS = ("captions", "tags")


@dataclasses.dataclass(frozen=True)
class TfdsDataset:
  """An opened dataset.

  Attributes:
    builder: TFDS builder, which reads the records.
    features: Layout of each stored feature.
    made_from: What it states that it is made from; {} where it does not.
  """

  builder: tfds.core.DatasetBuilder
  features: dict[str, Feature]
  made_from: dict[str, Any] = dataclasses.field(default_factory=dict)


def _version_directories(root: Any, name: str) -> list[Any]:
  found = [path.parent for path in (root / name).rglob("dataset_info.json")]
  # A name without a variant means "all" tracks before "free" ones, and the newest version.
  versions = sorted(found, key=lambda path: path.name, reverse=True)
  return sorted(versions, key=lambda path: path.parent.name != "all")


def find_directory(root: str | os.PathLike, name: str) -> Any:
  """Finds the directory of a dataset: a path.

  Args:
    root: Directory in which the datasets were built, perhaps of a bucket.
    name: Name of the dataset: "recorded", or "recorded/free" for a variant.

  Raises:
    UserError: The dataset was not built there.
  """
  place = buckets.path_of(root)
  directories = _version_directories(place, name)
  if directories:
    return directories[0]
  built = sorted({p.parent.relative_to(place).parts[0] for p in place.rglob("dataset_info.json")})
  raise UserError(
    f"no TFDS dataset {name!r} below {root}: it holds {', '.join(built) or 'none'};"
    f" build one with python -m data.{name.split('/')[0]}"
  )


def read_build(directory: str | os.PathLike) -> dict[str, Any]:
  """What a builder noted beside its dataset, "made_from" and "origin"; {} where it did not."""
  try:
    return json.loads((buckets.path_of(directory) / BUILD).read_text())
  except (OSError, ValueError):
    return {}


def digest(root: str | os.PathLike, name: str) -> str:
  """SHA-256 over what a dataset is made from, all splits, and over its shape on disk.

  Args:
    root: Directory in which the datasets were built.
    name: Name of the dataset.

  Raises:
    UserError: The dataset was not built there.
  """
  directory = find_directory(root, name)
  sha = hashlib.sha256(json.dumps(read_build(directory), sort_keys=True).encode())
  # The records themselves are gigabytes; their numbers and lengths are listed here.
  for listed in ("dataset_info.json", "metadata.json", "manifest.jsonl"):
    if (directory / listed).is_file():
      sha.update((directory / listed).read_bytes())
  return sha.hexdigest()


def open_dataset(root: str | os.PathLike, name: str) -> TfdsDataset:
  """Opens a dataset.

  Args:
    root: Directory in which the datasets were built.
    name: Name of the dataset: "recorded", or "recorded/free" for a variant.

  Raises:
    UserError: The dataset is missing or damaged.
  """
  directory = find_directory(root, name)
  try:
    builder = tfds.builder_from_directory(str(directory))
    rates = json.loads((directory / "metadata.json").read_text())["features"]
    made_from = read_build(directory).get("made_from") or {}
  except (OSError, KeyError, ValueError) as error:
    raise UserError(f"TFDS dataset {directory} is damaged: {error}; build it anew") from error
  features = {}
  for key, spec in rates.items():
    tensor = builder.info.features[key]
    dtype = np.dtype(tensor.np_dtype).name
    features[key] = Feature(spec["rate"], dtype, tuple(tensor.shape[1:]), spec["per_window"])
  return TfdsDataset(builder, features, made_from)


def check_split(dataset: TfdsDataset, split: str) -> None:
  """Raises a UserError if the dataset has no split of this name."""
  splits = dataset.builder.info.splits
  if split not in splits:
    raise UserError(
      f"TFDS dataset {dataset.builder.info.full_name} has no split {split!r}:"
      f" it has {', '.join(sorted(splits))}"
    )


def _record(example: dict[str, Any], features: dict[str, Feature]) -> dict[str, Any]:
  record: dict[str, Any] = {}
  for key, value in example.items():
    if key in _LISTS:
      record[key] = [text.decode() for text in value]
    elif key not in features:
      record[key] = value.decode() if isinstance(value, bytes) else float(value)
  return record


class _SplitReader:
  """Reads chosen records of a split; calls for records one after another share one pass."""

  def __init__(self, dataset: TfdsDataset, split: str):
    self._dataset, self._split = dataset, split
    self._next = 0  # the record that the pass under way gives next
    self._pass: Iterator[dict[str, Any]] | None = None

  def _begin(self, first: int) -> None:
    count = self._dataset.builder.info.splits[self._split].num_examples
    # One file after another: only then are records first, first + 1, ... those that follow.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    examples = self._dataset.builder.as_dataset(
      split=tfds.core.ReadInstruction(self._split, from_=first, to=count, unit="abs"),
      shuffle_files=False,
      read_config=config,
    )
    self._pass, self._next = iter(tfds.as_numpy(examples)), first

  def __call__(self, indices: Iterable[int]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    wanted = set(indices)
    if not wanted:
      return
    if self._pass is None or self._next != min(wanted):
      self._begin(min(wanted))
    assert self._pass is not None
    last = max(wanted)
    while self._next <= last:
      example = next(self._pass)
      self._next += 1
      if self._next - 1 in wanted:
        audio = example["audio"].astype(np.float32) / 32768.0
        yield _record(example, self._dataset.features), audio


def open_split(source: str | os.PathLike, name: str, split: str) -> tuple[int, Reader]:
  """Opens a split of an audio dataset for reading chosen records.

  Args:
    source: Directory in which the datasets were built.
    name: Name of the dataset.
    split: Name of the split: "train", "validation", ...

  Returns:
    (number of records, read). `read(indices)` yields (record, audio) in the order of the disk, not
    of `indices`: the record as in an array dataset, the audio float32 [samples] in [-1, 1]. TFDS
    records can only be read one after another: what lies between chosen ones is read and dropped,
    and a call that begins where the one before it ended goes on with its pass.

  Raises:
    UserError: The dataset or the split is missing, or the dataset is damaged.
  """
  dataset = open_dataset(source, name)
  check_split(dataset, split)

  count = dataset.builder.info.splits[split].num_examples
  return count, _SplitReader(dataset, split)
