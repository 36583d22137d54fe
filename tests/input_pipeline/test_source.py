"""What every source of batches must do; one suite over all of them."""

import json

import numpy as np
import pytest

pytest.importorskip("seqio", reason="TFDS and seqio need the [data] extra")

import ml_collections
import seqio
import tensorflow as tf

from melody_jax.errors import UserError
from melody_jax.input_pipeline.grain_source import ahead
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.input_pipeline.source import make_source
from melody_jax.task import WindowFeature

FEATURES = {
  "latents": WindowFeature((10, 3), "float32"),
  "semantic_tokens": WindowFeature((5,), "int32", 1024),
}
STORED = {"latents": Feature(10.0, "float16", (3,)), "semantic_tokens": Feature(5.0, "int16")}


class Inputs:
  def input_features(self):
    return FEATURES

  def tokenizer(self):
    return None


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
  """A dataset, and in seqio's registry what a user put there."""
  root = tmp_path_factory.mktemp("data")
  for split in ("train", "validation"):
    writer = ShardWriter(root / "encoded", split, 0, 1, STORED)
    for i, seconds in enumerate((4, 9, 7)):
      writer.write({"id": f"r{i}", "captions": ["one"], "seconds": seconds}, {
          "latents": np.tile(np.arange(seconds * 10)[:, None], 3) + 100 * i,
          "semantic_tokens": np.arange(seconds * 5) + 100 * i})  # fmt: skip
    writer.close()
  register("mine", 12)
  register("shuffled_by_nobody", 12, shuffle_buffer_size=None)
  register("without_tokens", 12, keys=("latents",))
  register("too_short", 12, frames=9)
  register("empty", 0)
  seqio.MixtureRegistry.add("our weekend/mix", [("mine", 3.0), ("mine_too", 1.0)])
  yield root
  for name in ("mine", "mine_too", "shuffled_by_nobody", "without_tokens", "too_short", "empty"):
    seqio.TaskRegistry.remove(name)
  seqio.MixtureRegistry.remove("our weekend/mix")


def register(name, n, keys=tuple(FEATURES), frames=10, **options):
  """A user's task: its own source, other dtypes than a batch, one entry too many."""

  def dataset_fn(split, shuffle_files, seed=None):
    del split, shuffle_files, seed

    def row(i):
      latents = tf.fill([frames, 3], tf.cast(i, tf.float32) / 8)
      return {"latents": latents, "semantic_tokens": tf.fill([5], tf.cast(i, tf.int32))}

    return tf.data.Dataset.range(n).map(row).map(lambda row: {key: row[key] for key in keys})

  described = {
    "latents": seqio.ContinuousFeature(dtype=tf.float32, rank=2),
    "semantic_tokens": seqio.Feature(
      seqio.PassThroughVocabulary(1024), add_eos=False, dtype=tf.int32
    ),
  }
  for task in (name, "mine_too") if name == "mine" else (name,):
    seqio.TaskRegistry.add(
      task, source=seqio.FunctionDataSource(dataset_fn, splits=("train", "validation")),
      preprocessors=[], output_features={key: described[key] for key in keys},
      **{"shuffle_buffer_size": 8} | options,
    )  # fmt: skip


SOURCES = {
  "grain": {"source": "grain", "path": "ROOT/encoded"},
  "two datasets": {"source": "grain", "path": "ROOT/encoded,ROOT/encoded", "weights": "1,2"},
  "seqio": {"source": "seqio", "path": "ROOT/encoded"},
  "registered task": {"source": "seqio", "path": "mine"},
  "registered mixture": {"source": "seqio", "path": "our weekend/mix"},
  "mixture of both": {
    "source": "seqio", "path": "our weekend/mix, ROOT/encoded, ", "weights": "1, 2, "
  },
}  # fmt: skip


def make(roots, data, shuffle=True, host=(0, 1), batch_size=4, split="train", seed=3):
  settings = {"path": "", "weights": "", "workers": 0, "modules": "", "split": "train"} | {
    key: value.replace("ROOT", str(roots)) for key, value in data.items()
  }
  config = ml_collections.ConfigDict(
    {"seed": seed, "window_seconds": 1.0, "train": {"batch_size": batch_size}, "data": settings}
  )
  return make_source(config, Inputs(), split, shuffle, host)


@pytest.mark.parametrize("kind", ["grain", "seqio", "registered task"])
def test_tokens_that_the_model_lacks_are_named(roots, kind, monkeypatch):
  monkeypatch.setitem(FEATURES, "semantic_tokens", WindowFeature((5,), "int32", 2))
  with pytest.raises(UserError, match="among their semantic_tokens, the model has 2, from 0"):
    take(make(roots, SOURCES[kind]), 9)


def take(source, n):
  return [next(source) for _ in range(n)]


def same(batches, expected):
  for batch, other in zip(batches, expected, strict=True):
    assert set(batch) == set(other)
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])
  return True


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_keeps_the_protocol(roots, name):
  for shuffle in (True, False):
    whole = take(make(roots, SOURCES[name], shuffle), 7)
    for batch in whole:
      assert {key: (v.shape, v.dtype.name) for key, v in batch.items()} == {
        key: ((4, *f.shape), f.dtype) for key, f in FEATURES.items()
      }
    source = make(roots, SOURCES[name], shuffle)
    assert source.windows > 0 and iter(source) is source
    first = json.loads(json.dumps(source.get_state()))
    take(source, 3)
    state = json.loads(json.dumps(source.get_state()))
    # An evaluation goes back to the first batches, a resumed run to where it was killed.
    for place, expected in ((first, whole[:4]), (state, whole[3:]), (first, whole[:1])):
      source.set_state(place)
      assert source.get_state() == place and same(take(source, len(expected)), expected)
    fresh = make(roots, SOURCES[name], shuffle)
    fresh.set_state(state)
    assert same(take(fresh, 4), whole[3:])
  other, honest = (take(make(roots, SOURCES[name], seed=seed), 3) for seed in (4, 3))
  assert any((a["latents"] != b["latents"]).any() for a, b in zip(other, honest, strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_reading_ahead_and_several_hosts_keep_it_too(roots, name):
  whole = take(make(roots, SOURCES[name]), 6)
  reader = ahead(make(roots, SOURCES[name]), lambda batch: batch)
  first = reader.get_state()
  assert same(take(reader, 2), whole[:2])
  state = reader.get_state()
  reader.set_state(first)
  assert same(take(reader, 3), whole[:3])
  reader.set_state(state)
  assert same(take(reader, 4), whole[2:])
  reader.close()
  with pytest.raises(ZeroDivisionError):
    next(ahead(make(roots, SOURCES[name]), lambda batch: 1 // 0))
  for host in range(2):
    part = take(make(roots, SOURCES[name], host=(host, 2)), 2)
    assert all(batch["latents"].shape == (2, 10, 3) for batch in part)


@pytest.mark.parametrize(("data", "message"), [
    ({"path": "without_tokens"}, "lacks semantic_tokens: it has latents"),
    ({"path": "too_short"}, r"latents of seqio 'too_short' has shape \(9, 3\).*\(10, 3\)"),
    ({"path": "nobody's"}, "no seqio task or mixture \"nobody's\" is registered"),
    ({"path": "empty"}, "no windows of empty, split train"),
    ({"path": "mine,empty"}, "no windows of mine,empty, split train"),
    ({"path": "shuffled_by_nobody"}, "cannot be read: Shuffling is disallowed"),
    ({"path": "mine", "weights": "1,2"}, "2 numbers for 1 datasets"),
    ({"path": "mine", "modules": "no.such_module"}, "cannot import 'no.such_module'"),
])  # fmt: skip
def test_what_a_user_registered_wrongly_is_one_line(roots, data, message):
  with pytest.raises(UserError, match=message) as error:
    make(roots, {"source": "seqio"} | data)
  assert "\n" not in str(error.value)


def test_a_split_that_a_registered_task_lacks_is_named(roots):
  with pytest.raises(UserError, match="'our weekend/mix' has no split 'test': it has train, valid"):
    make(roots, SOURCES["registered mixture"], split="test")


def test_modules_register_what_the_command_line_names(roots, tmp_path, monkeypatch):
  (tmp_path / "weekend_tasks.py").write_text(
    "import seqio\nseqio.MixtureRegistry.add('from_a_module', [('mine', 1.0)])\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  data = {"source": "seqio", "path": "from_a_module", "modules": "weekend_tasks"}
  try:
    assert next(make(roots, data))["latents"].shape == (4, 10, 3)
  finally:
    seqio.MixtureRegistry.remove("from_a_module")
