"""Builders of TFDS datasets from a corpus or from an array dataset.

No other file of `data` imports TensorFlow. A built dataset can be read without any of this code:
`tfds.builder_from_directory("<data_dir>/tfds/recorded/all/1.0.0")`.
"""

from collections.abc import Iterator
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data.rebuild import check_place, fingerprint
from data.tracks import (
  FEATURES,
  Corpus,
  Ledger,
  Track,
  counted,
  examples,
  read_ledger,
  select_licences,
  write_ledger,
)
from melody_jax.errors import UserError
from melody_jax.input_pipeline import array_dataset
from melody_jax.input_pipeline.array_dataset import ArrayDataset, Feature
from melody_jax.input_pipeline.tfds_records import BUILD, read_build
from melody_jax.output_files import check_new_folder
from melody_jax.progress import bar

DATASET_VERSION = "1.0.0"
# Entries of a record that become fields of the dataset. Other facts (key, tempo, ...) differ from
# corpus to corpus and stay out: one schema fits all.
_TEXTS = ("id", "track", "package", "licence", "author", "source", "title")


def record_features(arrays: dict[str, Feature]) -> tfds.features.FeaturesDict:
  """Schema of a record: texts, lists of captions and tags, seconds, and one tensor a feature.

  Args:
    arrays: Layout of each stored feature. Its tensor has shape [frames, *feature.shape].
  """
  schema: dict[str, Any] = {name: tfds.features.Text() for name in _TEXTS}
  for name in ("captions", "tags"):
    schema[name] = tfds.features.Sequence(tfds.features.Text())
  schema["seconds"] = np.float32
  for name, feature in arrays.items():
    # Stored as bytes: TFDS would otherwise widen every sample to a 64-bit integer.
    schema[name] = tfds.features.Tensor(
      shape=(None, *feature.shape),
      dtype=np.dtype(feature.dtype),
      encoding=tfds.features.Encoding.BYTES,
    )
  return tfds.features.FeaturesDict(schema)


def tfds_example(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """One example in the schema of `record_features`.

  Args:
    record: Texts, lists and seconds. Missing entries become empty.
    arrays: Features by name, each [frames, ...].
  """
  texts = {name: str(record.get(name, "")) for name in _TEXTS}
  lists = {name: [str(text) for text in record.get(name, [])] for name in ("captions", "tags")}
  return {**texts, **lists, "seconds": float(record.get("seconds", 0.0)), **arrays}


# mypy cannot see the TFDS classes behind their lazy imports, hence the ignored arguments.
class _MelodyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Shared part of the builders: the schema, and the rates of the features as metadata."""

  VERSION = tfds.core.Version(DATASET_VERSION)
  # Without this TFDS looks beside the code for checksums of downloads. There are none.
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


class CorpusBuilder(_MelodyBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Builds the TFDS dataset of a corpus from the tracks whose licence the config admits.

  Args:
    corpus: The corpus.
    ledger: Filled with what was used and what was not.
    **kwargs: Arguments of the TFDS builder: `data_dir`, and `config` ("all" or "free").
  """

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
      # TFDS refuses an empty split. Only decoding shows whether a split has a usable track.
      generator = self._generate_examples(by_split.get(split, []))
      first = next(generator, None)
      if first is not None:
        generators[split] = itertools.chain([first], generator)
    if not generators:
      self._ledger.check_usable(self._corpus.name)
    return generators

  def _generate_examples(self, tracks: list[Track]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not tracks:
      return
    # TFDS does not know how many records will come, and so not how long it will take.
    with bar(len(tracks), f"{self._corpus.name} {tracks[0].split}", "track") as progress:
      done = counted(tracks, progress.update)
      for _, record, pcm in examples(self._corpus, done, self._ledger):
        yield record["id"], tfds_example(record, {"audio": pcm})


class ArrayBuilder(_MelodyBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Copies an array dataset (encoded tokens and latents) into TFDS.

  Args:
    root: Directory of the array dataset.
    splits: Names of its splits. At least one.
    **kwargs: Arguments of the TFDS builder, such as `data_dir`.
  """

  def __init__(self, root: str | os.PathLike, splits: list[str], **kwargs):
    self._datasets = {split: ArrayDataset(root, split) for split in splits}
    self.arrays = next(iter(self._datasets.values())).features
    super().__init__(**kwargs)

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    del dl_manager
    return {split: self._generate_examples(split) for split in self._datasets}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    dataset = self._datasets[split]
    with bar(len(dataset), split, "record") as progress:
      for record, arrays in dataset:
        yield record["id"], tfds_example(record, arrays)
        progress.update()


def _named(base: type, name: str) -> type:
  """Makes a builder class for one dataset. TFDS names a dataset's directory after its class."""
  # TFDS also looks for text files beside the module that a class comes from.
  body = {"name": name, "__doc__": base.__doc__, "__module__": __name__}
  return type(name, (base,), body, skip_registration=True)


def _prepare(builder: tfds.core.DatasetBuilder) -> pathlib.Path:
  tfds.disable_progress_bar()  # ours know when they will be full
  # Statistics would read the whole dataset again, and nothing uses them.
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
  )
  return pathlib.Path(str(builder.data_dir))


def _replace(where: pathlib.Path, new: pathlib.Path) -> None:
  """Puts a finished dataset into the place of an old one; both lie on one disk."""
  where.parent.mkdir(parents=True, exist_ok=True)
  old = where.with_name(f".{where.name}.old-{os.getpid()}")
  if where.exists():
    os.rename(where, old)
  os.rename(new, where)
  shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _beside(data_dir: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A directory to build in, hidden, on the disk of the datasets; gone at the end."""
  data_dir = pathlib.Path(data_dir)
  check_new_folder(data_dir)
  data_dir.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".building-", dir=data_dir) as folder:
    yield pathlib.Path(folder)


def build_tfds(
  corpus: Corpus, data_dir: str | os.PathLike, licences: str = "all"
) -> tuple[pathlib.Path, Ledger]:
  """Builds the dataset of `corpus` under `data_dir`.

  A dataset that was built from the same tracks, files and captions is left as it is; any other is
  replaced once the new one is complete.

  Args:
    corpus: The corpus.
    data_dir: Directory of all TFDS datasets.
    licences: "all" tracks, or only "free" ones.

  Returns:
    (directory of the dataset, ledger). manifest.jsonl and report.json lie in the directory, and
    build.json, which says what it was built from.

  Raises:
    UserError: No track has an admitted licence, no file could be used, or the directory holds the
      dataset of other music.
  """
  where = pathlib.Path(data_dir) / corpus.name / licences / DATASET_VERSION
  tracks = select_licences(corpus.tracks(), licences)
  build: dict[str, Any] = {
    "made_from": {"build": fingerprint(corpus, tracks)},
    "origin": corpus.origin,
  }
  before = read_build(where)
  check_place(where, build["origin"], before.get("origin", ""), tracks)
  if before == build and (where / "dataset_info.json").exists():
    return where, read_ledger(where)
  ledger = Ledger(remarks=list(corpus.notes))
  with _beside(data_dir) as folder:
    builder = _named(CorpusBuilder, corpus.name)(
      corpus=corpus, ledger=ledger, data_dir=str(folder), config=licences
    )
    new = _prepare(builder)
    write_ledger(new, ledger)
    (new / BUILD).write_text(json.dumps(build))
    _replace(where, new)
  return where, ledger


def build_tfds_from_arrays(
  root: str | os.PathLike, name: str, splits: list[str], data_dir: str | os.PathLike
) -> pathlib.Path:
  """Copies an array dataset into a TFDS dataset.

  Args:
    root: Directory of the array dataset.
    name: Name of the new dataset.
    splits: Splits to copy.
    data_dir: Directory of all TFDS datasets.

  Returns:
    Directory of the new dataset.

  Raises:
    UserError: A split is missing or not complete, or the directory holds a copy of another dataset.
  """
  where = pathlib.Path(data_dir) / name / DATASET_VERSION
  models = ArrayDataset(root, splits[0]).made_from.get("models", {})
  made_from = {"source": array_dataset.digest(root), "models": models, "splits": splits}
  build: dict[str, Any] = {"made_from": made_from, "origin": str(pathlib.Path(root).resolve())}
  before = read_build(where)
  check_place(where, build["origin"], before.get("origin", ""), [])
  if before == build and (where / "dataset_info.json").exists():
    return where
  with _beside(data_dir) as folder:
    new = _prepare(_named(ArrayBuilder, name)(root=root, splits=splits, data_dir=str(folder)))
    (new / BUILD).write_text(json.dumps(build))
    _replace(where, new)
  return where
