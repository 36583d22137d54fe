r"""Writes the features that LM and DPD train on, or plain audio for the encoders.

    python -m melody_jax.encode --config=configs/encode.py --config.source=DIR --config.out=DIR \
        --config.bundle=checkpoints/nano --config.features=style_tokens,semantic_tokens,latents

The source is an array dataset, or a TFDS dataset (`--config.tfds=NAME --config.source=TFDS_DIR`).
Shards are written one by one and a finished shard is not encoded again, so the command resumes.
A shard holds records that follow each other in the source, and several hosts
(`melody_jax.multihost`) take shards that follow each other: so a source that can only be read from
its beginning to its end is read once. The devices of a host take windows of several records at a
time.
"""

from collections.abc import Callable, Iterable
import itertools
import math
from typing import Any

import jax
import numpy as np

from melody_jax import buckets, cli
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.config import check_ranges
from melody_jax.errors import UserError, check_choice
from melody_jax.generation import programs
from melody_jax.input_pipeline.array_dataset import ArrayDataset, Feature, ShardWriter
from melody_jax.multihost.session import session

# The name of a shard has room for five digits.
RANGES = {"shards": (1, 99_999), "style_hop_seconds": (0.01, math.inf)}

# Clips [T] -> frames of each.
Encoder = Callable[[list[np.ndarray]], list[np.ndarray]]


def _style(config) -> tuple[Feature, Encoder]:
  from melody_jax.encoders.style import StyleEncoder

  style = StyleEncoder.load(config.bundle, text=False)
  hop = config.style_hop_seconds
  levels = style.params["rvq"]["codebooks"].shape[0]
  feature = Feature(1.0 / hop, "int16", (levels,), per_window=True)
  return feature, lambda clips: style.tokens_of_clips(clips, hop)


def _semantic(config) -> tuple[Feature, Encoder]:
  from melody_jax.encoders.semantic import SemanticTokenizer

  tokenizer = SemanticTokenizer.load(config.bundle)
  return Feature(SAMPLE_RATE / tokenizer.config.hop, "int16"), tokenizer.encode_clips


def _latents(config) -> tuple[Feature, Encoder]:
  from melody_jax.encoders.codec import Codec

  codec = Codec.load(config.bundle)
  rate = SAMPLE_RATE / codec.config.hop_length
  return Feature(rate, "float16", (codec.config.latent_dim,)), codec.encode_clips


def _audio(config) -> tuple[Feature, Encoder]:
  del config
  return Feature(SAMPLE_RATE, "int16"), lambda clips: [
    np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16) for audio in clips
  ]


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


def part_of(count: int, index: int, parts: int) -> range:
  """Part number `index` of `count` things that are cut into `parts`, equal to one, in order."""
  return range(index * count // parts, (index + 1) * count // parts)


def encode_split(config, split: str, encoders: dict[str, tuple[Feature, Encoder]]) -> None:
  """Encodes one split into `config.out`, shard by shard."""
  from tqdm import tqdm

  count, read = (_tfds_records if config.tfds else _array_records)(config, split)
  features = {name: feature for name, (feature, _) in encoders.items()}
  n_shards = min(config.shards, count)
  for shard in part_of(n_shards, jax.process_index(), jax.process_count()):
    target = buckets.path_of(config.out) / split / f"shard-{shard:05d}-of-{n_shards:05d}"
    # Its index is written last: in a bucket a folder has files as soon as the first is there.
    if (target / "index.json").exists():
      continue
    indices = part_of(count, shard, n_shards)
    progress = tqdm(
      read(indices), total=len(indices), desc=f"{split} {shard + 1}/{n_shards}", mininterval=10
    )
    with buckets.writable(target.parent) as folder:
      writer = ShardWriter(folder, shard, n_shards, features)
      _encode_records(iter(progress), encoders, writer)
      buckets.upload(writer.close(), target, last="index.json")


def _encode_records(records, encoders: dict[str, tuple[Feature, Encoder]], writer) -> None:
  while group := list(itertools.islice(records, 2 * jax.local_device_count())):
    clips = [audio for _, audio in group]
    encoded = {name: encode(clips) for name, (_, encode) in encoders.items()}
    for i, (record, _) in enumerate(group):
      writer.write(record, {name: frames[i] for name, frames in encoded.items()})


def main(config) -> None:
  """Encodes every split that config.splits names."""
  for key in ("source", "out"):
    if not config[key]:
      raise UserError(f"--config.{key}=DIR is missing")
  names = config.features.split(",")
  for name in names:
    check_choice("config.features", name, FEATURES)
  check_ranges(config, RANGES)
  programs.use_compilation_cache()
  with session(config.distributed):
    encoders = {name: FEATURES[name](config) for name in names}
    for split in config.splits.split(","):
      encode_split(config, split, encoders)


if __name__ == "__main__":
  cli.run(main)
