"""seqio tasks over the TFDS datasets that `data/` builds, and those that a user registered.

Each dataset becomes a seqio Task, and `cut_windows` cuts its records into windows. A row has the
same entries as one of `array_source`.
"""

from collections.abc import Mapping, Sequence
import functools
import importlib

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from melody_jax.config import listed
from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import Feature
from melody_jax.input_pipeline.array_source import TEXT_FEATURES
from melody_jax.input_pipeline.tfds_records import TfdsDataset, open_dataset
from melody_jax.task import Tokenize, WindowFeature

_SHUFFLE_WINDOWS = 256  # about 250 MB of float audio
_NO_CAPTION = "music"
_own_names: set[str] = set()  # tasks and mixtures registered here; all others are a user's


class DirectorySource(seqio.DataSource):
  """seqio source of a built TFDS dataset that is read from its directory."""

  def __init__(self, dataset: TfdsDataset):
    self._dataset = dataset
    sizes = {name: info.num_examples for name, info in dataset.builder.info.splits.items()}
    super().__init__(splits=sizes, num_input_examples=sizes, caching_permitted=False)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return [str(path) for path in self._dataset.builder.info.splits[split].filenames]

  def get_dataset(  # type: ignore[override]
    self, split: str = "train", shuffle: bool = True, seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None, **unused,
  ) -> tf.data.Dataset:  # fmt: skip
    """Reads the records of a split.

    Args:
      split: Name of the split.
      shuffle: Whether to shuffle the files.
      seed: Seed of that shuffle.
      shard_info: (index, count) of this host. It reads every count-th file only.
      **unused: Further options of seqio, not needed here.

    Returns:
      Dataset of records: texts, lists, and each feature [frames, ...].
    """
    del unused
    context = None
    if shard_info and shard_info.num_shards > 1:
      context = tf.distribute.InputContext(shard_info.num_shards, shard_info.index)
    read_config = tfds.ReadConfig(
      shuffle_seed=seed, input_context=context, try_autocache=False, skip_prefetch=True
    )
    # The same order each time is what makes a position mean the same after a restart.
    read_config.options.deterministic = True
    return self._dataset.builder.as_dataset(
      split=split, shuffle_files=shuffle, read_config=read_config
    )


class CaptionVocabulary(seqio.Vocabulary):
  """The tokeniser of captions (melody_jax.text) as a seqio vocabulary. It cannot decode.

  Args:
    tokenize: Function from text to (ids int32 [N], mask bool [N]).
    size: Number of tokens, by default that of the uncased English BERT.
  """

  def __init__(self, tokenize: Tokenize, size: int):
    super().__init__(extra_ids=0)
    self.tokenize = tokenize
    self._size = size

  @property
  def _base_vocab_size(self) -> int:
    return self._size

  @property
  def eos_id(self) -> int | None:
    return None

  @property
  def unk_id(self) -> int | None:
    return None

  def _encode(self, s: str) -> list[int]:
    return [int(i) for i in self.tokenize(s)[0]]

  def _decode(self, ids: Sequence[int]) -> str:
    raise NotImplementedError("captions are only encoded")

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    raise NotImplementedError("captions are only encoded")

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return self.encode_with_mask(s)[0]

  def encode_with_mask(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Tokenises a text inside a TensorFlow graph.

    Args:
      text: Text, a string scalar.

    Returns:
      (ids int32 [N], mask bool [N]). The mask is true on real tokens.
    """

    def encode(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
      ids, mask = self.tokenize(raw.decode())
      return np.asarray(ids, np.int32), np.asarray(mask, bool)

    # The tokeniser is Python code, so the graph has to call back.
    ids, mask = tf.numpy_function(encode, [text], (tf.int32, tf.bool))
    ids.set_shape([None])
    mask.set_shape([None])
    return ids, mask


def _window_starts(
  frames: tf.Tensor,
  seed: tf.Tensor,
  rate: float,
  grid: float,
  window_seconds: float,
  random_starts: bool,
) -> tf.Tensor:
  """Starts in seconds, float32 [windows], of as many windows as fit end to end in a record.

  The small numbers keep rounding of float32 from losing a window that fits exactly.
  """
  seconds = tf.cast(tf.shape(frames)[0], tf.float32) / rate
  count = tf.maximum(tf.cast(tf.floor(seconds / window_seconds + 1e-5), tf.int32), 0)
  slots = tf.cast(tf.floor((seconds - window_seconds) / grid + 1e-4), tf.int32) + 1
  if random_starts:
    drawn = tf.random.stateless_uniform([count], seed, 0, tf.maximum(slots, 1), tf.int32)
    return tf.cast(drawn, tf.float32) * grid
  in_order = tf.range(count, dtype=tf.int32)
  step = tf.math.ceil(window_seconds / grid - 1e-5)
  return tf.boolean_mask(tf.cast(in_order, tf.float32) * step * grid, in_order < slots)


def _slice(array: tf.Tensor, start: tf.Tensor, feature: Feature, frames: int) -> tf.Tensor:
  """Cuts the window that starts at `start` seconds from [frames, ...]."""
  first = tf.cast(tf.round(start * feature.rate), tf.int64)
  return array[first] if feature.per_window else array[first : first + frames]


def _to_batch_dtype(array: tf.Tensor, name: str, dtype: str) -> tf.Tensor:
  if name == "audio" and array.dtype == tf.int16:
    return tf.cast(array, tf.float32) / 32768.0
  return tf.cast(array, dtype)


def _caption_of(record: dict[str, tf.Tensor], k: tf.Tensor) -> tf.Tensor:
  """Draws a caption for window k of a record."""
  # Appended, so that the list is never empty; drawn only if it is the only one.
  captions = tf.concat([record["captions"], [_NO_CAPTION]], 0)
  available = tf.maximum(tf.shape(record["captions"])[0], 1)
  seed = tf.stack(
    [
      tf.cast(record["caption_seed"][0], tf.int64) + k,
      tf.cast(record["caption_seed"][1], tf.int64),
    ]
  )
  return captions[tf.random.stateless_uniform([], seed, 0, available, tf.int32)]


def cut_windows(
  records: tf.data.Dataset,
  features: Mapping[str, Feature],
  wanted: Mapping[str, WindowFeature],
  window_seconds: float,
  random_starts: bool,
  vocabulary: CaptionVocabulary | None,
) -> tf.data.Dataset:
  """Cuts each record into as many windows as fit end to end.

  Args:
    records: Records of a built dataset, each feature [frames, ...].
    features: Layout of the stored features that are wanted.
    wanted: Shape and dtype of each entry of a row.
    window_seconds: Length of a window in seconds.
    random_starts: True draws the starts at random, at whole frames of the slowest feature. False
      takes 0, 1, 2, ... window lengths. Draws follow the seeds of seqio, so they can be repeated.
    vocabulary: Tokeniser for a caption drawn at random; None if no text is wanted.

  Returns:
    Dataset of rows: {name: tensor of the wanted shape and dtype}.
  """
  # The fastest feature measures a record most finely; the slowest tells where windows may start.
  timekeeper = max(features, key=lambda name: features[name].rate)
  starts_of = functools.partial(
    _window_starts,
    rate=features[timekeeper].rate,
    grid=max(1.0 / feature.rate for feature in features.values()),
    window_seconds=window_seconds,
    random_starts=random_starts,
  )

  # Seeds are handed out a record at a time, so all draws of a record come from these two.
  @seqio.map_over_dataset(num_seeds=2)
  def with_starts(record: dict[str, tf.Tensor], seeds: tf.Tensor) -> dict[str, tf.Tensor]:
    needed = {name: record[name] for name in (*features, "captions")}
    return {**needed, "starts": starts_of(record[timekeeper], seeds[0]), "caption_seed": seeds[1]}

  def window_at(
    record: dict[str, tf.Tensor], k: tf.Tensor, start: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    row = {}
    for name, feature in features.items():
      array = _slice(record[name], start, feature, round(window_seconds * feature.rate))
      row[name] = _to_batch_dtype(array, name, wanted[name].dtype)
    if vocabulary is not None:
      row["text_ids"], row["text_mask"] = vocabulary.encode_with_mask(_caption_of(record, k))
    return row

  def windows_of(record: dict[str, tf.Tensor]) -> tf.data.Dataset:
    starts = tf.data.Dataset.from_tensor_slices(record["starts"]).enumerate()
    return starts.map(lambda k, start: window_at(record, k, start))

  return with_starts(records).flat_map(windows_of)


def _output_features(
  wanted: Mapping[str, WindowFeature], vocabulary: CaptionVocabulary | None
) -> dict[str, seqio.Feature]:
  """Describes a row to seqio: continuous audio and latents, vocabularies for tokens."""
  described: dict[str, seqio.Feature] = {}
  for name, spec in wanted.items():
    dtype, rank = tf.dtypes.as_dtype(spec.dtype), len(spec.shape)
    if name == "text_ids":
      described[name] = seqio.Feature(vocabulary, add_eos=False, dtype=dtype, rank=rank)
    elif spec.vocabulary is not None:
      tokens = seqio.PassThroughVocabulary(spec.vocabulary)
      described[name] = seqio.Feature(tokens, add_eos=False, dtype=dtype, rank=rank)
    else:
      described[name] = seqio.ContinuousFeature(dtype=dtype, rank=rank)
  return described


def add_task(
  tfds_dir: str,
  name: str,
  wanted: Mapping[str, WindowFeature],
  window_seconds: float,
  random_starts: bool = True,
  tokenize: Tokenize | None = None,
) -> seqio.Task:
  """Registers a TFDS dataset as a seqio Task. A Task of the same name is replaced.

  Args:
    tfds_dir: Directory in which the TFDS datasets were built.
    name: Name of the dataset. The Task gets this name with "." for "/", and with ".in_order" at
      its end if starts are not random.
    wanted: Shape and dtype of each entry of a row, from `Task.input_features`.
    window_seconds: Length of a window in seconds.
    random_starts: Whether windows start at random; `cut_windows` explains it.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if text is wanted.

  Returns:
    The registered Task.

  Raises:
    UserError: The dataset is missing, or lacks a feature.
    ValueError: Text is wanted and there is no `tokenize`.
  """
  dataset = open_dataset(tfds_dir, name)
  stored = [key for key in wanted if key not in TEXT_FEATURES]
  missing = [key for key in stored if key not in dataset.features]
  if missing:
    raise UserError(
      f"TFDS dataset {name} lacks {', '.join(missing)}: it has {', '.join(dataset.features)};"
      " encode it with python -m melody_jax.encode, then python -m data.encoded"
    )
  vocabulary = None
  if "text_ids" in wanted:
    if tokenize is None or wanted["text_ids"].vocabulary is None:
      raise ValueError("features ask for text: give a tokenizer, and the vocabulary of text_ids")
    vocabulary = CaptionVocabulary(tokenize, wanted["text_ids"].vocabulary)
  preprocessor = functools.partial(
    cut_windows, features={key: dataset.features[key] for key in stored}, wanted=wanted,
    window_seconds=window_seconds, random_starts=random_starts, vocabulary=vocabulary,
  )  # fmt: skip
  task_name = name.replace("/", ".") + ("" if random_starts else ".in_order")
  seqio.TaskRegistry.remove(task_name)
  _own_names.add(task_name)
  return seqio.TaskRegistry.add(
    task_name, source=DirectorySource(dataset), preprocessors=[preprocessor],
    output_features=_output_features(wanted, vocabulary), shuffle_buffer_size=_SHUFFLE_WINDOWS,
  )  # fmt: skip


def add_mixture(name: str, rates: list[tuple[str, float]]) -> seqio.Mixture:
  """Registers a mixture of tasks, in the place of one of that name from before.

  Args:
    name: Name of the mixture.
    rates: (task, share) of each part.
  """
  seqio.MixtureRegistry.remove(name)
  _own_names.add(name)
  return seqio.MixtureRegistry.add(name, rates)


def windows_in_split(dataset: TfdsDataset, split: str, window_seconds: float) -> int:
  """Counts the windows that fit end to end in the records of a split.

  Args:
    dataset: An opened dataset.
    split: Name of the split.
    window_seconds: Length of a window in seconds.
  """
  # Only the field `seconds` is decoded. The audio as well would take far longer.
  lengths = dataset.builder.as_dataset(
    split=split, decoders=tfds.decode.PartialDecoding({"seconds": True}), shuffle_files=False
  )
  return sum(int(e["seconds"] / window_seconds + 1e-5) for e in tfds.as_numpy(lengths))


def import_modules(names: str) -> None:
  """Imports the modules in which a user registers seqio tasks and mixtures.

  Args:
    names: Names of Python modules, separated by commas.

  Raises:
    UserError: A module cannot be imported.
  """
  for name in listed(names):
    try:
      importlib.import_module(name)
    except Exception as error:  # a user's code may raise anything
      raise UserError(
        f"config.data.modules: cannot import {name!r} ({type(error).__name__}: {error}); it must be"
        " on PYTHONPATH"
      ) from error


def registered(name: str) -> seqio.Task | seqio.Mixture | None:
  """The Task or Mixture that a user registered under a name, or None."""
  if name in _own_names or name not in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
    return None
  return seqio.get_mixture_or_task(name)
