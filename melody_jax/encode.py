r"""Writes the features that LM and DPD train on, or plain audio for the encoders.

    python -m melody_jax.encode --config=configs/encode.py --config.source=DIR --config.out=DIR \
        --config.bundle=checkpoints/nano --config.features=style_tokens,semantic_tokens,latents

Shards are written one by one and a finished shard is not encoded again, so the command resumes.
Every shard states the digests of the source and of the models; one that was made from others is
stale and is encoded anew.
A shard holds records that follow each other in the source, and several hosts
(`melody_jax.multihost`) take shards that follow each other; each record is read once. The devices
of a host take windows of several records at a time, while others are read and written.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import dataclasses
import itertools
import math
import os
import time
from typing import Any

import numpy as np

from melody_jax import cli
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.config import check_numbers, check_page, check_ranges, listed
from melody_jax.errors import UserError, check_choice
from melody_jax.input_pipeline import shards
from melody_jax.input_pipeline.dataset import Dataset, has_split
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.output_files import check_new_folder
from melody_jax.places import buckets
from melody_jax.places.bundles import locate
from melody_jax.progress import print_progress

# The name of a shard has room for five digits.
RANGES = {"shards": (1, 99_999), "style_hop_seconds": (0.01, math.inf), "caption_styles": (0, 1)}

# (clips [T], their records) -> frames of each.
EncodeClips = Callable[[list[np.ndarray], list[dict[str, Any]]], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How one feature is made.

  Attributes:
    feature: Layout of the feature.
    encode: Function from clips and their records to frames.
    model: Digest of the model that makes it; "" where none does.
    train: The same function for the training split, where that differs.
  """

  feature: Feature
  encode: EncodeClips
  model: str = ""
  train: EncodeClips | None = None


def _style(config) -> Encoding:
  from melody_jax.encoders.caption_styles import caption_styles
  from melody_jax.encoders.style import StyleEncoder

  share = config.caption_styles
  style = StyleEncoder.load(config.bundle, text=share > 0)
  hop = config.style_hop_seconds
  levels = style.params["rvq"]["codebooks"].shape[0]
  feature = Feature(1.0 / hop, "int16", (levels,), per_window=True)

  def of_audio(clips, records):
    del records
    return style.tokens_of_clips(clips, hop)

  def of_both(clips, records):
    said = [record.get("captions") or [] for record in records]
    names = [record["id"] for record in records]
    return caption_styles(of_audio(clips, records), said, names, share, style.tokens_of_texts)

  if not share:
    return Encoding(feature, of_audio, style.digest)
  return Encoding(feature, of_audio, f"{style.text_digest} {share}", of_both)


def _semantic(config) -> Encoding:
  from melody_jax.encoders.semantic import SemanticTokenizer

  tokenizer = SemanticTokenizer.load(config.bundle)
  feature = Feature(SAMPLE_RATE / tokenizer.config.hop, "int16")
  return Encoding(feature, lambda clips, _: tokenizer.encode_clips(clips), tokenizer.digest)


def _latents(config) -> Encoding:
  from melody_jax.encoders.codec import Codec

  codec = Codec.load(config.bundle)
  rate = SAMPLE_RATE / codec.config.hop_length
  feature = Feature(rate, "float16", (codec.config.latent_dim,))
  return Encoding(feature, lambda clips, _: codec.encode_clips(clips), codec.digest)


def _audio(config) -> Encoding:
  del config

  def encode(clips, records):
    del records
    return [np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16) for audio in clips]

  return Encoding(Feature(SAMPLE_RATE, "int16"), encode)


FEATURES = {
  "audio": _audio,
  "style_tokens": _style,
  "semantic_tokens": _semantic,
  "latents": _latents,
}


def _read(dataset: Dataset, indices: range) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
  """Records in order with their audio, float32 [samples] in [-1, 1]; a thread reads ahead."""
  import grain

  def record(i: int) -> tuple[dict[str, Any], np.ndarray]:
    return dataset.record(i), dataset.read(i, "audio").astype(np.float32) / 32768.0

  # One thread: a dataset keeps the record that it read last, and both entries are of one.
  ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=16)
  return iter(grain.MapDataset.source(indices).map(record).to_iter_dataset(ahead))


def _source(config) -> tuple[str, str]:
  """Digest of the source's contents, and its place."""
  return shards.digest(config.source), os.path.realpath(config.source)


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
  for split, notes in shards.shards_of(out).items():
    for note in notes:
      index = shards.read_note(note)
      found, place = index.get("made_from") or {}, index.get("origin") or origin
      if place != origin and found.get("source") != made_from["source"]:
        raise UserError(
          f"config.out {out} holds what was encoded from another dataset, {place}: give"
          f" another config.out, or delete {out}"
        )
      if found != made_from and split not in splits:
        raise UserError(
          f"{split} of {out} was encoded from another state of the source or by other models: name"
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

  dataset = Dataset(config.source, split)
  dataset.check_features(["audio"])
  features = {name: encoding.feature for name, encoding in encoders.items()}
  encode = {
    name: (encoding.train if split == "train" else None) or encoding.encode
    for name, encoding in encoders.items()
  }
  n_shards = min(config.shards, len(dataset))
  if jax.process_index() == 0:
    # Of another number of shards none is written over, and a mixture would be refused later on.
    for old in shards.shards_of(config.out).get(split, []):
      if shards.announced(old) != n_shards:
        shards.remove_shard(old)
  seconds, began = 0.0, time.monotonic()
  for shard in part_of(n_shards, jax.process_index(), jax.process_count()):
    if shards.is_current(shards.note_of(config.out, split, shard, n_shards), features, made_from):
      continue
    indices = part_of(len(dataset), shard, n_shards)
    records = tqdm(
      _read(dataset, indices), f"{split} {shard + 1}/{n_shards}", len(indices), mininterval=10
    )
    writer = ShardWriter(config.out, split, shard, n_shards, features, made_from, origin)
    try:
      # Two clips a device: enough to keep all busy, few enough for the memory.
      seconds += _encode_records(records, encode, writer, 2 * jax.local_device_count())
    except BaseException:
      writer.drop()
      raise
    writer.close()
  shards.finish(config.out)  # where a run was killed between a shard and that
  if seconds:
    speed = seconds / (time.monotonic() - began)
    print_progress(f"{split}: {seconds / 3600:.2f} h encoded, {speed:.0f} s of audio a second")


def _encode_records(
  records: Iterable, encode: dict[str, EncodeClips], writer: ShardWriter, at_once: int
) -> float:
  """Encodes records into a shard; returns their seconds. Writing goes on beside it, in order."""
  rest, samples = iter(records), 0
  waiting: deque[concurrent.futures.Future] = deque()
  with concurrent.futures.ThreadPoolExecutor(1, "write") as pool:
    while group := list(itertools.islice(rest, at_once)):
      said, clips = [record for record, _ in group], [audio for _, audio in group]
      encoded = {name: function(clips, said) for name, function in encode.items()}
      for i, record in enumerate(said):
        arrays = {name: frames[i] for name, frames in encoded.items()}
        waiting.append(pool.submit(writer.write, record, arrays))
        samples += len(clips[i])
      # What waits is held in memory.
      while len(waiting) > 4 * at_once:
        waiting.popleft().result()
    for written in waiting:
      written.result()
  return samples / SAMPLE_RATE


def _splits_of(config, wanted: list[str]) -> list[str]:
  """Those of the wanted splits that the source has.

  Raises:
    UserError: if it has none of them.
  """
  found = [name for name in wanted if has_split(config.source, name)]
  if not found:
    missing = f"{config.source} has no split {' or '.join(wanted)} (config.splits)"
    raise UserError(f"{missing}: {_what_is_there(config)}")
  return found


def _what_is_there(config) -> str:
  splits = sorted(shards.shards_of(config.source))
  if splits:
    return f"it has {', '.join(splits)}"
  return "it is no dataset, name the directory of one"


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
  buckets.refuse(config.source, "datasets to read")
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
