"""TFDS builders around a corpus or an array dataset; only this file of `data` imports TensorFlow.

The built datasets need no code to be read back:
`tfds.builder_from_directory("<data_dir>/tfds/recorded/all/1.0.0")`.
"""

from collections.abc import Iterator
import itertools
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data.tracks import FEATURES, Corpus, Ledger, Track, examples, select_licences, write_ledger
from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset, Feature

VERSION = "1.0.0"
# Facts of a record that become fields of their own; the rest are texts in `facts`.
_TEXTS = ("id", "track", "package", "licence", "author", "source", "title")


def record_features(arrays: dict[str, Feature]) -> tfds.features.FeaturesDict:
  """The schema: texts, caption and tag lists, seconds, and one tensor a stored feature."""
  schema: dict[str, Any] = {name: tfds.features.Text() for name in _TEXTS}
  for name in ("captions", "tags"):
    schema[name] = tfds.features.Sequence(tfds.features.Text())
  schema["seconds"] = np.float32
  for name, feature in arrays.items():
    # As bytes: TFDS would otherwise widen every sample to a 64-bit varint.
    schema[name] = tfds.features.Tensor(
      shape=(None, *feature.shape),
      dtype=np.dtype(feature.dtype),
      encoding=tfds.features.Encoding.BYTES,
    )
  return tfds.features.FeaturesDict(schema)


def tfds_example(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """A record and its arrays in the shape of `record_features`."""
  texts = {name: str(record.get(name, "")) for name in _TEXTS}
  lists = {name: [str(text) for text in record.get(name, [])] for name in ("captions", "tags")}
  return {**texts, **lists, "seconds": float(record.get("seconds", 0.0)), **arrays}


class _MelodyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """What the builders share: the schema, and the features' rates as metadata."""

  VERSION = tfds.core.Version(VERSION)
  # TFDS would look for checksums of downloads beside the code; there are none.
  code_path = None
  arrays: dict[str, Feature] = FEATURES

  def _info(self) -> tfds.core.DatasetInfo:
    rates = {
      name: {"rate": feature.rate, "per_window": feature.per_window}
      for name, feature in self.arrays.items()
    }
    return self.dataset_info_from_configs(
      features=record_features(self.arrays), metadata=tfds.core.MetadataDict(features=rates)
    )


class CorpusBuilder(_MelodyBuilder, skip_registration=True):
  """Builds the TFDS dataset of a corpus, of the tracks that the config's licences admit."""

  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="all", description="Every track."),
    tfds.core.BuilderConfig(
      name="free", description="CC-BY, CC-BY-SA, CC0 and public domain only."
    ),
  ]

  def __init__(self, corpus: Corpus, ledger: Ledger, **kwargs):
    self._corpus = corpus
    self._ledger = ledger
    super().__init__(**kwargs)

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    del dl_manager  # the corpus fetched its own files
    tracks = select_licences(self._corpus.tracks(), self.builder_config.name)
    if not tracks:
      raise UserError(
        f"{self._corpus.name}: no track found for licences={self.builder_config.name}"
      )
    by_split: dict[str, list[Track]] = {}
    for track in tracks:
      by_split.setdefault(track.split, []).append(track)
    generators = {}
    for split in self._corpus.splits:
      # TFDS refuses a split that turns out empty, so look whether any of its tracks is usable.
      generator = self._generate_examples(by_split.get(split, []))
      first = next(generator, None)
      if first is not None:
        generators[split] = itertools.chain([first], generator)
    if not generators:
      raise UserError(
        f"{self._corpus.name}: none of {len(tracks)} files could be used ({self._reasons()})"
      )
    return generators

  def _reasons(self) -> str:
    return ", ".join(
      f"{count} {reason}" for reason, count in self._ledger.report()["quarantined"].items()
    )

  def _generate_examples(self, tracks: list[Track]) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, record, pcm in examples(self._corpus, tracks, self._ledger):
      yield record["id"], tfds_example(record, {"audio": pcm})


class ArrayBuilder(_MelodyBuilder, skip_registration=True):
  """Copies an array dataset (encoded tokens and latents) into TFDS."""

  def __init__(self, root: str | os.PathLike, splits: list[str], **kwargs):
    self._datasets = {split: ArrayDataset(root, split) for split in splits}
    self.arrays = next(iter(self._datasets.values())).features
    super().__init__(**kwargs)

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    del dl_manager
    return {split: self._generate_examples(split) for split in self._datasets}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for record, arrays in self._datasets[split]:
      yield record["id"], tfds_example(record, arrays)


def _named(base: type, name: str) -> type:
  """A builder class for one dataset; TFDS names the dataset's directory after its class."""
  # TFDS also looks for texts beside the module that a class says it is from.
  body = {"name": name, "__doc__": base.__doc__, "__module__": __name__}
  return type(name, (base,), body, skip_registration=True)


def _prepare(builder: tfds.core.DatasetBuilder) -> pathlib.Path:
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
  )
  return pathlib.Path(str(builder.data_dir))


def build_tfds(
  corpus: Corpus, data_dir: str | os.PathLike, licences: str = "all"
) -> tuple[pathlib.Path, Ledger]:
  """Builds `corpus` under `data_dir`; returns the dataset's directory and what was done.

  A dataset that is there already is left as it is (delete its directory to build it anew);
  its ledger is then empty. manifest.jsonl and report.json lie beside the records.
  """
  ledger = Ledger()
  builder = _named(CorpusBuilder, corpus.name)(
    corpus=corpus, ledger=ledger, data_dir=str(data_dir), config=licences
  )
  fresh = not (pathlib.Path(str(builder.data_dir)) / "dataset_info.json").exists()
  where = _prepare(builder)
  if fresh:
    write_ledger(where, ledger)
  return where, ledger


def build_tfds_from_arrays(
  root: str | os.PathLike, name: str, splits: list[str], data_dir: str | os.PathLike
) -> pathlib.Path:
  """Builds a TFDS dataset called `name` from the array dataset at `root`; returns its directory."""
  return _prepare(_named(ArrayBuilder, name)(root=root, splits=splits, data_dir=str(data_dir)))
