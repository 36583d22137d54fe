"""Array datasets: features of audio on disk, in memory-mapped `.npy` files. Needs no TensorFlow.

Each split has a directory, with one directory for each shard:

    <root>/<split>/shard-00000-of-00004/
      records.jsonl        one JSON object a record: id, captions, tags, licence, ...
      index.json           {"features": {name: {"rate": frames per second, ...}}, "lengths": ...,
                            "made_from": digests of sources and models, "origin": place of these}
      audio.npy            int16   [frames, ...]; the records' frames one after another
      latents.npy          float16 [frames, D]
      semantic_tokens.npy  int16   [frames]
      style_tokens.npy     int16   [frames, 12]

All features of a record cover the same time, each at its own rate. A window therefore starts at a
whole frame of the slowest feature. `style_tokens` is different: its frame i describes the whole
window that starts at i / rate seconds.

All shards of a dataset, in all of its splits, were made from the same: a reader refuses shards of
different `made_from`, which an interrupted or partly repeated build leaves.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.places import buckets

_INDEX = "index.json"
_RECORDS = "records.jsonl"
_SHARDS = "shard-*-of-*"


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


class ShardWriter:
  """Writes one shard. It gets its final name in `close`, so readers never see half a shard.

  Args:
    split_dir: Directory of the split; made if missing.
    shard: Number of the shard, from 0.
    n_shards: Number of shards of the split.
    features: Layout of each feature.
    made_from: What the dataset is made from, values that JSON can hold; the same for all shards.
    origin: Where that lies, for messages: a folder, another dataset.
  """

  def __init__(
    self,
    split_dir: str | os.PathLike,
    shard: int,
    n_shards: int,
    features: dict[str, Feature],
    made_from: dict[str, Any] | None = None,
    origin: str = "",
  ):
    self._about = {"made_from": made_from, "origin": origin}
    self._final = pathlib.Path(split_dir) / f"shard-{shard:05d}-of-{n_shards:05d}"
    # The hidden name keeps it out of the pattern by which readers find shards.
    self._temporary = self._final.with_name(f".{self._final.name}.tmp-{os.getpid()}")
    shutil.rmtree(self._temporary, ignore_errors=True)
    self._temporary.mkdir(parents=True)
    self._features = features
    # Frames go to disk at once: a shard may be larger than the memory.
    self._raw = {name: open(self._temporary / f"{name}.raw", "wb") for name in features}
    self._lengths: dict[str, list[int]] = {name: [] for name in features}
    self._digests = {name: hashlib.sha256() for name in features}
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
      content = array.tobytes()
      self._raw[name].write(content)
      self._digests[name].update(content)
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
      "sha256": {name: digest.hexdigest() for name, digest in self._digests.items()},
      **self._about,
    }
    (self._temporary / _INDEX).write_text(json.dumps(index), encoding="utf-8")
    (self._temporary / _RECORDS).write_text(
      "".join(f"{json_text(record)}\n" for record in self._records), encoding="utf-8"
    )
    shutil.rmtree(self._final, ignore_errors=True)
    os.rename(self._temporary, self._final)
    return self._final


def read_index(shard: str | os.PathLike) -> dict[str, Any]:
  """The index of a shard: "features", "lengths", "made_from", "origin"; {} where it is damaged."""
  try:
    index = json.loads((buckets.path_of(shard) / _INDEX).read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return index if isinstance(index, dict) else {}


def shards_of(root: str | os.PathLike) -> dict[str, list[Any]]:
  """The shards below a directory, {split: directories in order}; in a bucket, half ones too."""
  found: dict[str, list[Any]] = {}
  for path in sorted(buckets.path_of(root).glob(f"[!.]*/{_SHARDS}")):
    found.setdefault(path.parent.name, []).append(path)
  return found


def digest(root: str | os.PathLike) -> str:
  """SHA-256 over records and features of a dataset, all splits; the same for equal contents.

  Shards state the digests of their arrays, so that nothing but their lists is read. Arrays of
  shards that do not (of older versions) are read.
  """
  sha = hashlib.sha256()
  for split, shards in shards_of(root).items():
    for shard in shards:
      index = read_index(shard)
      sha.update(f"{split}/{shard.name}".encode())
      sha.update(json.dumps([index.get("features"), index.get("lengths")]).encode())
      sha.update((shard / _RECORDS).read_bytes())
      for name in sorted(index.get("features", {})):
        known = index.get("sha256", {}).get(name)
        sha.update((known or _file_digest(shard / f"{name}.npy")).encode())
  return sha.hexdigest()


def _file_digest(path: pathlib.Path) -> str:
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


class _Shard:
  def __init__(self, path: pathlib.Path):
    index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
    self.made_from = index.get("made_from")
    self.features = {
      name: Feature(**{**spec, "shape": tuple(spec["shape"])})
      for name, spec in index["features"].items()
    }
    # Not splitlines: texts may hold U+2028 and its kin, which it takes for ends of lines.
    lines = (path / _RECORDS).read_text(encoding="utf-8").split("\n")
    self.records = [json.loads(line) for line in lines if line]
    self.arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in self.features}
    # Records lie one after another: a running sum of lengths gives the first frame of each.
    self.offsets = {
      name: np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
      for name, lengths in index["lengths"].items()
    }


def has_split(root: str | os.PathLike, split: str) -> bool:
  """Whether the array dataset at `root` has shards of a split, all of them or some."""
  return any((pathlib.Path(root) / split).glob("shard-*-of-*"))


def _nothing_there(root: pathlib.Path, split: str) -> str:
  """Why a split cannot be opened, and what to do."""
  if not root.is_dir():
    return f"no dataset directory {root} (split {split}): check the path"
  others = sorted(shards_of(root))
  if others:
    return f"{root} has no split {split!r}: it has {', '.join(others)}"
  below = sorted({p.parent.parent.parent.name for p in root.glob(f"[!.]*/[!.]*/{_SHARDS}")})
  if below:
    return f"{root} is no array dataset, but holds some: name one of {', '.join(below)} in it"
  return (
    f"{root} is no array dataset: python -m data.music_folder --format=arrays makes one of audio"
    " files, python -m melody_jax.encode one of tokens and latents"
  )


class ArrayDataset:
  """Random access to the records of one split. Iteration yields (record, arrays) in order.

  Args:
    root: Directory of the dataset.
    split: Name of the split, a sub-directory ("train", "validation", ...).

  Attributes:
    where: Directory of the split.
    features: Layout of each stored feature.
    made_from: What its shards state that they are made from; {} where they do not.

  Raises:
    UserError: The split is missing, not all of its shards are there, or shards of different builds
      lie side by side.
  """

  def __init__(self, root: str | os.PathLike, split: str):
    buckets.refuse(root, "array datasets")
    where = pathlib.Path(root) / split
    paths = sorted(where.glob("shard-*-of-*"))
    if not paths:
      raise UserError(_nothing_there(pathlib.Path(root), split))
    # Every shard's name tells how many there are, so a dataset half written is noticed.
    announced = int(paths[0].name.rsplit("-", 1)[-1])
    self._refuse_mixture(pathlib.Path(root), paths)
    if len(paths) != announced:
      audio = set(read_index(paths[0]).get("features", {})) <= {"audio"}
      writer = "its builder (python -m data....)" if audio else "python -m melody_jax.encode"
      raise UserError(
        f"{where} has {len(paths)} of {announced} shards: run {writer} again, to its end"
      )
    self.where = where
    self._shards = [_Shard(path) for path in paths]
    self.features: dict[str, Feature] = self._shards[0].features
    self.made_from: dict[str, Any] = self._shards[0].made_from or {}
    self._where = [
      (s, r) for s, shard in enumerate(self._shards) for r in range(len(shard.records))
    ]

  @staticmethod
  def _refuse_mixture(root: pathlib.Path, paths: list[pathlib.Path]) -> None:
    """Raises UserError where shards of the split, or of splits beside it, are of other builds."""

    def build(path: pathlib.Path) -> str:
      index = read_index(path)
      return json.dumps([index.get("features"), index.get("made_from")], sort_keys=True)

    counts = {path.name.rsplit("-", 1)[-1] for path in paths}
    beside = [
      shards[0] for split, shards in shards_of(root).items() if split != paths[0].parent.name
    ]
    first = build(paths[0])
    others = [path for path in [*paths, *beside] if build(path) != first]
    if len(counts) > 1 or others:
      other = others[0] if others else paths[-1]
      raise UserError(
        f"{root} mixes what was made at different times: {other.relative_to(root)} is not of the"
        f" same sources, models or shards as {paths[0].relative_to(root)}; build or encode all"
        " splits again, or delete the old ones"
      )

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
