"""Array datasets: features of audio on disk, in memory-mapped `.npy` files. Needs no TensorFlow.

Each split has a directory, with one directory for each shard:

    <root>/<split>/shard-00000-of-00004/
      records.jsonl        one JSON object a record: id, captions, tags, licence, ...
      index.json           {"features": {name: {"rate": frames per second, ...}}, "lengths": ...}
      audio.npy            int16   [frames, ...]; the records' frames one after another
      latents.npy          float16 [frames, D]
      semantic_tokens.npy  int16   [frames]
      style_tokens.npy     int16   [frames, 12]

All features of a record cover the same time, each at its own rate. A window therefore starts at a
whole frame of the slowest feature. `style_tokens` is different: its frame i describes the whole
window that starts at i / rate seconds.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from melody_jax import buckets
from melody_jax.errors import UserError

_INDEX = "index.json"
_RECORDS = "records.jsonl"


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


class ShardWriter:
  """Writes one shard. It gets its final name in `close`, so readers never see half a shard.

  Args:
    split_dir: Directory of the split; made if missing.
    shard: Number of the shard, from 0.
    n_shards: Number of shards of the split.
    features: Layout of each feature.
  """

  def __init__(
    self, split_dir: str | os.PathLike, shard: int, n_shards: int, features: dict[str, Feature]
  ):
    self._final = pathlib.Path(split_dir) / f"shard-{shard:05d}-of-{n_shards:05d}"
    # The hidden name keeps it out of the pattern by which readers find shards.
    self._temporary = self._final.with_name(f".{self._final.name}.tmp-{os.getpid()}")
    shutil.rmtree(self._temporary, ignore_errors=True)
    self._temporary.mkdir(parents=True)
    self._features = features
    # Frames go to disk at once: a shard may be larger than the memory.
    self._raw = {name: open(self._temporary / f"{name}.raw", "wb") for name in features}
    self._lengths: dict[str, list[int]] = {name: [] for name in features}
    self._records: list[dict[str, Any]] = []

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
    for name, feature in self._features.items():
      array = np.ascontiguousarray(arrays[name], dtype=feature.dtype)
      if array.shape[1:] != tuple(feature.shape):
        raise ValueError(
          f"record {record.get('id')}: {name} has frames of shape {array.shape[1:]},"
          f" expected {feature.shape}"
        )
      self._raw[name].write(array.tobytes())
      self._lengths[name].append(len(array))
    self._records.append(record)

  def close(self) -> pathlib.Path:
    """Finishes the shard and renames it into place.

    Returns:
      Directory of the shard.
    """
    for name, feature in self._features.items():
      self._raw[name].close()
      frames = sum(self._lengths[name])
      raw = self._temporary / f"{name}.raw"
      with open(self._temporary / f"{name}.npy", "wb") as out, open(raw, "rb") as body:
        # A .npy header tells the number of frames, which is known only now.
        np.lib.format.write_array_header_1_0(
          out,
          {
            "descr": np.lib.format.dtype_to_descr(np.dtype(feature.dtype)),
            "fortran_order": False,
            "shape": (frames, *feature.shape),
          },
        )
        shutil.copyfileobj(body, out, 1 << 22)
      raw.unlink()
    index = {
      "features": {k: dataclasses.asdict(f) for k, f in self._features.items()},
      "lengths": self._lengths,
    }
    (self._temporary / _INDEX).write_text(json.dumps(index))
    (self._temporary / _RECORDS).write_text(
      "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in self._records)
    )
    shutil.rmtree(self._final, ignore_errors=True)
    os.rename(self._temporary, self._final)
    return self._final


class _Shard:
  def __init__(self, path: pathlib.Path):
    index = json.loads((path / _INDEX).read_text())
    self.features = {
      name: Feature(**{**spec, "shape": tuple(spec["shape"])})
      for name, spec in index["features"].items()
    }
    self.records = [json.loads(line) for line in (path / _RECORDS).read_text().splitlines()]
    self.arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in self.features}
    # Records lie one after another: a running sum of lengths gives the first frame of each.
    self.offsets = {
      name: np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
      for name, lengths in index["lengths"].items()
    }


class ArrayDataset:
  """Random access to the records of one split. Iteration yields (record, arrays) in order.

  Args:
    root: Directory of the dataset.
    split: Name of the split, a sub-directory ("train", "validation", ...).

  Attributes:
    features: Layout of each stored feature.

  Raises:
    UserError: The split is missing, or not all of its shards are there.
  """

  def __init__(self, root: str | os.PathLike, split: str):
    buckets.refuse(root, "array datasets")
    where = pathlib.Path(root) / split
    paths = sorted(where.glob("shard-*-of-*"))
    if not paths:
      raise UserError(f"no array dataset at {where}: write one with python -m melody_jax.encode")
    # Every shard's name tells how many there are, so a dataset half written is noticed.
    announced = int(paths[0].name.rsplit("-", 1)[-1])
    if len(paths) != announced:
      raise UserError(
        f"{where} has {len(paths)} of {announced} shards: let melody_jax.encode finish"
      )
    self._shards = [_Shard(path) for path in paths]
    self.features: dict[str, Feature] = self._shards[0].features
    self._where = [
      (s, r) for s, shard in enumerate(self._shards) for r in range(len(shard.records))
    ]

  def __len__(self) -> int:
    return len(self._where)

  def record(self, i: int) -> dict[str, Any]:
    """JSON object of record `i`."""
    s, r = self._where[i]
    return self._shards[s].records[r]

  def length(self, i: int, name: str) -> int:
    """Number of frames of feature `name` in record `i`."""
    s, r = self._where[i]
    return int(self._shards[s].offsets[name][r + 1] - self._shards[s].offsets[name][r])

  def read(self, i: int, name: str, start: int = 0, frames: int | None = None) -> np.ndarray:
    """Reads frames of one feature of one record.

    Args:
      i: Number of the record.
      name: Name of the feature.
      start: First frame, counted in the record.
      frames: Number of frames. None reads to the end. Near the end there may be fewer.

    Returns:
      Array [frames, *shape of a frame] in the dtype on disk. It is a copy.
    """
    s, r = self._where[i]
    offsets = self._shards[s].offsets[name]
    begin = offsets[r] + start
    end = offsets[r + 1] if frames is None else min(begin + frames, offsets[r + 1])
    # A view would keep reading from disk whenever it is used.
    return np.array(self._shards[s].arrays[name][begin:end])

  def __iter__(self) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    for i in range(len(self)):
      yield self.record(i), {name: self.read(i, name) for name in self.features}
