"""seqio tasks and mixtures over the TFDS datasets that `data/` builds, and batches from them.

Each dataset becomes a seqio Task, and `cut_windows` cuts its records into windows. Several datasets
become a Mixture. A row has the same entries as one of `array_source`. Only this module and
`tfds_records` import TensorFlow.

Each epoch is a dataset of its own with a seed made of (seed, epoch), so the position of a source is
two integers. A resumed run builds the epoch again and skips the batches already seen: exact, but it
reads again what the epoch had read.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
from typing import Any

import ml_collections
import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import Feature
from melody_jax.input_pipeline.array_source import TEXT_FEATURES, models_of
from melody_jax.input_pipeline.tfds_records import TfdsDataset, check_split, open_dataset
from melody_jax.task import Tokenize, WindowFeature

_SHUFFLE_WINDOWS = 256  # about 250 MB of float audio
_NO_CAPTION = "music"


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
  return seqio.TaskRegistry.add(
    task_name, source=DirectorySource(dataset), preprocessors=[preprocessor],
    output_features=_output_features(wanted, vocabulary), shuffle_buffer_size=_SHUFFLE_WINDOWS,
  )  # fmt: skip


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


class SeqioSource:
  """Endless batches through seqio: {feature: array [rows of this host, *shape]}.

  Args:
    config: Config of the run. data.path names datasets below data.tfds_dir, separated by commas;
      data.weights are their sampling weights, by default their numbers of windows.
    features: Shape and dtype of each entry of a row, from `Task.input_features`.
    split: Name of the split.
    shuffle: False reads the windows in order and starts again after the last.
    host: (index, count) of this host.
    tokenize: Function from text to (ids int32 [N], mask bool [N]). Needed if features ask for
      text.

  Raises:
    UserError: A dataset, split or feature is missing, no record is as long as a window, or the
      hosts do not divide the batch.

  Attributes:
    models: Digests of the models that encoded the data, {feature: digest}; {} for plain audio.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, features: Mapping[str, WindowFeature], split: str,
    shuffle: bool = True, host: tuple[int, int] = (0, 1), tokenize: Tokenize | None = None,
  ):  # fmt: skip
    batch_size, hosts = config.train.batch_size, host[1]
    if batch_size % hosts:
      raise UserError(f"train.batch_size {batch_size} does not divide over {hosts} hosts")
    if not config.data.tfds_dir:
      raise UserError(
        "config.data.tfds_dir is empty: name the directory in which the TFDS datasets were built"
      )
    self._split, self._shuffle, self._seed = split, shuffle, int(config.seed)
    self._batch = batch_size // hosts
    self._shard = seqio.ShardInfo(index=host[0], num_shards=hosts) if hosts > 1 else None
    names = [name.strip() for name in config.data.path.split(",") if name.strip()]
    counts, datasets = [], []
    for name in names:
      dataset = open_dataset(config.data.tfds_dir, name)
      check_split(dataset, split)
      add_task(config.data.tfds_dir, name, features, config.window_seconds, shuffle, tokenize)
      datasets.append(dataset)
      counts.append(windows_in_split(dataset, split, config.window_seconds))
    self.models, self._datasets = models_of(datasets), datasets
    self._windows = sum(counts)
    if not self._windows:
      raise UserError(
        f"no record of {config.data.path}, split {split}, is as long as a window of"
        f" {config.window_seconds} s"
      )
    weights = [float(w) for w in config.data.weights.split(",") if w] or [float(n) for n in counts]
    self._provider = self._provide(names, weights, shuffle)
    self._epoch_batches = max(1, self._windows // batch_size) if shuffle else 0
    self._epoch, self._position = 0, 0
    self._iterator: Iterator[dict[str, np.ndarray]] | None = None

  @property
  def windows(self) -> int:
    """How many windows fit end to end in the records of the split."""
    return self._windows

  def captions(self) -> Iterator[str]:
    """All captions of the split."""
    for dataset in self._datasets:
      # Only this field is decoded, as in `windows_in_split`.
      records = dataset.builder.as_dataset(
        split=self._split, decoders=tfds.decode.PartialDecoding({"captions": True}),
        shuffle_files=False,
      )  # fmt: skip
      for record in tfds.as_numpy(records):
        yield from (caption.decode("utf-8", "replace") for caption in record["captions"])

  def _provide(self, names: list[str], weights: list[float], shuffle: bool):
    suffix = "" if shuffle else ".in_order"
    tasks = [name.replace("/", ".") + suffix for name in names]
    if len(tasks) == 1:
      return seqio.TaskRegistry.get(tasks[0])
    mixture = ":".join(tasks)
    seqio.MixtureRegistry.remove(mixture)
    return seqio.MixtureRegistry.add(mixture, list(zip(tasks, weights, strict=True)))

  def _batches(self, epoch: int, skip: int) -> Iterator[dict[str, np.ndarray]]:
    # SeedSequence makes seeds of neighbouring epochs unrelated; the shift keeps them positive.
    seed = int(np.random.SeedSequence((self._seed, epoch)).generate_state(1)[0] >> 1)
    rows = self._provider.get_dataset(
      sequence_length=None, split=self._split, shuffle=self._shuffle, seed=seed,
      shard_info=self._shard, num_epochs=None, try_in_mem_cache=False, trim_output_features=False,
    )  # fmt: skip
    batches = rows.batch(self._batch, drop_remainder=True).skip(skip)
    options = tf.data.Options()
    options.deterministic = True
    # Autotune would choose buffers by timing, so that memory would differ from run to run.
    options.autotune.enabled = False
    return tfds.as_numpy(batches.with_options(options).prefetch(2)).__iter__()

  def __iter__(self) -> "SeqioSource":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._shuffle and self._position >= self._epoch_batches:
      self._epoch, self._position, self._iterator = self._epoch + 1, 0, None
    if self._iterator is None:
      self._iterator = self._batches(self._epoch, self._position)
    batch = next(self._iterator)
    self._position += 1
    return dict(batch)

  def get_state(self) -> dict[str, Any]:
    """Position, JSON-serialisable: {"epoch", "position": batches read of that epoch}."""
    return {"epoch": self._epoch, "position": self._position}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a position that `get_state` returned."""
    self._epoch, self._position = int(state["epoch"]), int(state["position"])
    self._iterator = None
