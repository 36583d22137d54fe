r"""Writes the features that LM and DPD train on, or plain audio for the encoders.

    python -m melody_jax.encode --config=configs/encode.py --config.source=DIR --config.out=DIR \
        --config.bundle=checkpoints/nano --config.features=style_tokens,semantic_tokens,latents

The source is an array dataset, or a TFDS dataset (`--config.tfds=NAME --config.source=TFDS_DIR`).
Shards are written one by one and a finished shard is not encoded again, so the command resumes.
Every shard states the digests of the source and of the models; one that was made from others is
stale and is encoded anew.
A shard holds records that follow each other in the source, and several hosts
(`melody_jax.multihost`) take shards that follow each other: so a source that can only be read from
its beginning to its end is read once. The devices of a host take windows of several records at a
time.
"""

from collections.abc import Callable, Iterable
import dataclasses
import itertools
import math
import os
from typing import Any

import numpy as np

from melody_jax import cli
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.config import check_numbers, check_page, check_ranges, listed
from melody_jax.errors import UserError, check_choice
from melody_jax.input_pipeline import array_dataset
from melody_jax.input_pipeline.array_dataset import (
  ArrayDataset,
  Feature,
  ShardWriter,
  has_split,
)
from melody_jax.output_files import check_new_folder
from melody_jax.places import buckets
from melody_jax.places.bundles import locate
from melody_jax.progress import print_progress

# The name of a shard has room for five digits.
RANGES = {"shards": (1, 99_999), "style_hop_seconds": (0.01, math.inf)}

# Clips [T] -> frames of each.
EncodeClips = Callable[[list[np.ndarray]], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How one feature is made.

  Attributes:
    feature: Layout of the feature.
    encode: Function from clips to frames.
    model: Digest of the model that makes it; "" where none does.
  """

  feature: Feature
  encode: EncodeClips
  model: str = ""


def _style(config) -> Encoding:
  from melody_jax.encoders.style import StyleEncoder

  style = StyleEncoder.load(config.bundle, text=False)
  hop = config.style_hop_seconds
  levels = style.params["rvq"]["codebooks"].shape[0]
  feature = Feature(1.0 / hop, "int16", (levels,), per_window=True)
  return Encoding(feature, lambda clips: style.tokens_of_clips(clips, hop), style.digest)


def _semantic(config) -> Encoding:
  from melody_jax.encoders.semantic import SemanticTokenizer

  tokenizer = SemanticTokenizer.load(config.bundle)
  feature = Feature(SAMPLE_RATE / tokenizer.config.hop, "int16")
  return Encoding(feature, tokenizer.encode_clips, tokenizer.digest)


def _latents(config) -> Encoding:
  from melody_jax.encoders.codec import Codec

  codec = Codec.load(config.bundle)
  rate = SAMPLE_RATE / codec.config.hop_length
  feature = Feature(rate, "float16", (codec.config.latent_dim,))
  return Encoding(feature, codec.encode_clips, codec.digest)


def _audio(config) -> Encoding:
  del config

  def encode(clips):
    return [np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16) for audio in clips]

  return Encoding(Feature(SAMPLE_RATE, "int16"), encode)


FEATURES = {
  "audio": _audio,
  "style_tokens": _style,
  "semantic_tokens": _semantic,
  "latents": _latents,
}


def _array_records(config, split: str) -> tuple[int, Callable[[Iterable[int]], Any]]:
  dataset = ArrayDataset(config.source, split)

  def read(indices):
    for i in indices:
      yield dataset.record(i), dataset.read(i, "audio").astype(np.float32) / 32768.0

  return len(dataset), read


def _tfds_records(config, split: str) -> tuple[int, Callable[[Iterable[int]], Any]]:
  from melody_jax.input_pipeline.tfds_records import open_split

  return open_split(config.source, config.tfds, split)


def _source(config) -> tuple[str, str]:
  """Digest of the source's contents, and its place."""
  place = config.source if buckets.in_bucket(config.source) else os.path.realpath(config.source)
  if not config.tfds:
    return array_dataset.digest(config.source), place
  from melody_jax.input_pipeline.tfds_records import digest

  return digest(config.source, config.tfds), f"{place} {config.tfds}"


def _check_out(config, made_from: dict[str, Any], origin: str, splits: list[str]) -> None:
  """Refuses an output that is the source, or holds what must not be mixed with it or lost.

  Raises:
    UserError: saying what lies there and what to do.
  """
  out = buckets.path_of(config.out)
  # For the system a bucket is no path, and does not exist.
  if os.path.exists(out) and os.path.samefile(out, config.source):
    raise UserError(f"config.out {out} is the source itself: encode into another directory")
  # A split of the one would be taken for a split of the other.
  if _lie_nested(str(config.out), str(config.source)):
    raise UserError(
      f"config.out {out} and config.source {config.source} lie one inside the other: encode into"
      " a directory beside it"
    )
  check_new_folder(out)
  for split, shards in array_dataset.shards_of(out).items():
    for shard in shards:
      index = array_dataset.read_index(shard)
      found, place = index.get("made_from") or {}, index.get("origin") or origin
      if place != origin and found.get("source") != made_from["source"]:
        raise UserError(
          f"config.out {out} holds what was encoded from another dataset, {place}: give"
          f" another config.out, or delete {out}"
        )
      if found != made_from and split not in splits:
        raise UserError(
          f"{shard.parent} was encoded from another state of the source or by other models: name"
          f" {split} in config.splits, too, or delete it"
        )


def part_of(count: int, index: int, parts: int) -> range:
  """Part number `index` of `count` things that are cut into `parts`, equal to one, in order."""
  return range(index * count // parts, (index + 1) * count // parts)


def _lie_nested(one: str, other: str) -> bool:
  """Whether one of two directories lies inside the other; of a bucket by its name alone."""
  places = [p.rstrip("/") if buckets.in_bucket(p) else os.path.realpath(p) for p in (one, other)]
  return any(a.startswith(f"{b}/") for a, b in (places, places[::-1]))


def encode_split(
  config, split: str, encoders: dict[str, Encoding], made_from: dict[str, Any], origin: str
) -> None:
  """Encodes one split into `config.out`, shard by shard.

  Args:
    config: Keys of configs/encode.py.
    split: Name of the split.
    encoders: How each feature is made.
    made_from: Digests of source and models. A shard that states the same is finished.
    origin: Place of the source.
  """
  import jax
  from tqdm import tqdm

  count, read = (_tfds_records if config.tfds else _array_records)(config, split)
  features = {name: encoding.feature for name, encoding in encoders.items()}
  n_shards = min(config.shards, count)
  if jax.process_index() == 0:
    # Of another number of shards none is written over, and a mixture would be refused later on.
    for old in array_dataset.shards_of(config.out).get(split, []):
      if not old.name.endswith(f"-of-{n_shards:05d}"):
        buckets.remove_folder(old)
  for shard in part_of(n_shards, jax.process_index(), jax.process_count()):
    target = buckets.path_of(config.out) / split / f"shard-{shard:05d}-of-{n_shards:05d}"
    # Its index is written last: in a bucket a folder has files as soon as the first is there.
    if _is_current(target, features, made_from):
      continue
    indices = part_of(count, shard, n_shards)
    progress = tqdm(
      read(indices), total=len(indices), desc=f"{split} {shard + 1}/{n_shards}", mininterval=10
    )
    with buckets.writable(target.parent) as folder:
      writer = ShardWriter(folder, shard, n_shards, features, made_from, origin)
      # Two clips a device: enough to keep all busy, few enough for the memory.
      _encode_records(iter(progress), encoders, writer, 2 * jax.local_device_count())
      buckets.upload(writer.close(), target, last="index.json")


def _encode_records(
  records, encoders: dict[str, Encoding], writer: ShardWriter, at_once: int
) -> None:
  while group := list(itertools.islice(records, at_once)):
    clips = [audio for _, audio in group]
    encoded = {name: encoding.encode(clips) for name, encoding in encoders.items()}
    for i, (record, _) in enumerate(group):
      writer.write(record, {name: frames[i] for name, frames in encoded.items()})


def _is_current(shard: Any, features: dict[str, Feature], made_from) -> bool:
  index = array_dataset.read_index(shard)
  # As JSON has them: tuples are lists there.
  layout = {k: {**dataclasses.asdict(f), "shape": list(f.shape)} for k, f in features.items()}
  return index.get("made_from") == made_from and index.get("features") == layout


def _splits_of(config, wanted: list[str]) -> list[str]:
  """Those of the wanted splits that the source has.

  Raises:
    UserError: if it has none of them.
  """
  if config.tfds:
    return wanted  # TFDS says itself which splits a dataset has
  found = [name for name in wanted if has_split(config.source, name)]
  if not found:
    missing = f"{config.source} has no split {' or '.join(wanted)} (config.splits)"
    raise UserError(f"{missing}: {_what_is_there(config)}")
  return found


def _what_is_there(config) -> str:
  splits = sorted(array_dataset.shards_of(config.source))
  if splits:
    return f"it has {', '.join(splits)}"
  return "it is no array dataset, name the directory of one"


def main(config) -> None:
  """Encodes every split that config.splits names."""
  check_page(config, "source", "features")
  for key in ("source", "out"):
    if not config[key]:
      raise UserError(f"--config.{key}=DIR is missing")
  names, wanted = listed(config.features), listed(config.splits)
  for key, given in (("features", names), ("splits", wanted)):
    if not given:
      raise UserError(f"config.{key} is empty: name one or several, with commas in between")
  for name in names:
    check_choice("config.features", name, FEATURES)
  check_ranges(config, RANGES)
  check_numbers(config)
  if not config.tfds:
    buckets.refuse(config.source, "array datasets")
  if not buckets.path_of(config.source).is_dir():
    raise UserError(f"no dataset directory {config.source} (config.source): check the path")
  splits = _splits_of(config, wanted)
  if names != ["audio"]:
    config.bundle = str(locate(config.bundle))
  # Late: --help and a wrong command line must not wait for JAX.
  from melody_jax.generation import programs
  from melody_jax.multihost.session import session

  programs.use_compilation_cache()
  with session(config.distributed):
    encoders = {name: FEATURES[name](config) for name in names}
    digest, origin = _source(config)
    made_from = {"source": digest, "models": {k: e.model for k, e in encoders.items() if e.model}}
    _check_out(config, made_from, origin, splits)
    for name in sorted(set(wanted) - set(splits)):
      print_progress(f"{config.source} has no split {name!r}: it is left out")
    for split in splits:
      encode_split(config, split, encoders, made_from, origin)


if __name__ == "__main__":
  cli.run(main, page="encode")
