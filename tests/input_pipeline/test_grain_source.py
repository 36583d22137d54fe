"""Windows by Grain: alignment, order, jitter, resume at any place, hosts, processes, mixing."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.grain_source import GrainSource
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.input_pipeline.windows import Windows
from melody_jax.task import WindowFeature

FEATURES = {
  "audio": WindowFeature((200,), "float32"),
  "semantic_tokens": WindowFeature((20,), "int32"),
  "style_tokens": WindowFeature((2,), "int32"),
}


@pytest.fixture
def dataset(tmp_path):
  writer = ShardWriter(
    tmp_path,
    "train",
    0,
    1,
    {
      "audio": Feature(100.0, "int16"),
      "semantic_tokens": Feature(10.0, "int16"),
      "style_tokens": Feature(1.0, "int16", (2,), per_window=True),
    },
  )
  for i, seconds in enumerate((5, 1, 9)):
    t = np.arange(seconds * 100) + 1000 * i
    writer.write(
      {"id": f"r{i}", "captions": ["one", "two"]},
      {
        "audio": t.astype(np.int16),
        "semantic_tokens": (np.arange(seconds * 10) + 100 * i).astype(np.int16),
        "style_tokens": np.stack([np.arange(seconds), np.full(seconds, i)], 1).astype(np.int16),
      },
    )
  writer.close()
  return Dataset(tmp_path, "train")


def source(dataset, **kwargs):
  return GrainSource([dataset], FEATURES, 2.0, **{"batch_size": 4, "seed": 1, **kwargs})


def test_features_of_a_window_are_aligned(dataset):
  for _, batch in zip(range(20), source(dataset), strict=False):
    start = batch["style_tokens"][:, 0]
    np.testing.assert_allclose(
      batch["audio"][:, 0] * 32768, start * 100 + 1000 * batch["style_tokens"][:, 1]
    )
    np.testing.assert_array_equal(
      batch["semantic_tokens"][:, 0], start * 10 + 100 * batch["style_tokens"][:, 1]
    )
    assert set(batch["style_tokens"][:, 1]) <= {0, 2}, "the one-second record holds no window"


def test_same_seed_same_batches_and_resume_is_exact(dataset):
  whole = [next(s) for s in [source(dataset)] for _ in range(6)]
  first = source(dataset)
  for _ in range(3):
    next(first)
  resumed = source(dataset)
  resumed.set_state(first.get_state())
  for expected in whole[3:]:
    batch = next(resumed)
    for name in expected:
      np.testing.assert_array_equal(batch[name], expected[name])
  other = next(source(dataset, seed=2))
  assert any((other[name] != whole[0][name]).any() for name in other)


def test_hosts_share_one_batch(dataset):
  whole = next(source(dataset))
  parts = [next(source(dataset, host=(i, 2))) for i in range(2)]
  for name in whole:
    np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_in_order_covers_each_window_once(dataset):
  ordered = source(dataset, shuffle=False, batch_size=2)
  assert ordered.windows == 2 + 4
  starts = [tuple(row) for _ in range(3) for row in next(ordered)["style_tokens"]]
  assert sorted(starts) == [(0, 0), (0, 2), (2, 0), (2, 2), (4, 2), (6, 2)]


def test_captions_are_tokenised(dataset):
  features = FEATURES | {
    "text_ids": WindowFeature((3,), "int32"),
    "text_mask": WindowFeature((3,), "bool"),
  }
  seen = []

  def tokenize(text):
    seen.append(text)
    return np.full(3, len(text), np.int32), np.ones(3, bool)

  text_source = GrainSource([dataset], features, 2.0, 4, 0, tokenize=tokenize)
  batches = [next(text_source) for _ in range(8)]
  assert batches[0]["text_ids"].shape == (4, 3)
  assert set(seen) == {"one", "two"}


def test_missing_feature_and_long_window_are_errors(dataset):
  with pytest.raises(UserError, match="lacks latents"):
    GrainSource([dataset], {"latents": WindowFeature((1, 1), "float32")}, 2.0, 4, 0)
  with pytest.raises(UserError, match="no record is as long"):
    GrainSource([dataset], FEATURES, 60.0, 4, 0)
  with pytest.raises(UserError, match="the model expects"):
    next(GrainSource([dataset], FEATURES, 3.0, 4, 0))


def take(source, n):
  return [next(source) for _ in range(n)]


def same(batches, expected):
  for batch, other in zip(batches, expected, strict=True):
    for name in other:
      np.testing.assert_array_equal(batch[name], other[name])
  return True


def test_an_epoch_hears_every_record_by_its_length_and_the_next_in_another_order(dataset):
  one = source(dataset, batch_size=6)
  epochs = [batch["style_tokens"] for batch in take(one, 40)]
  for epoch in epochs:  # 2 windows of 2 s in the record of 5 s, 4 in that of 9 s
    assert sorted(epoch[:, 1]) == [0, 0, 2, 2, 2, 2]
  assert len({tuple(epoch[:, 1]) for epoch in epochs}) > 5
  # Moved starts reach every second at which a window may begin.
  rows = np.concatenate(epochs)
  assert set(rows[rows[:, 1] == 2][:, 0]) == set(range(8))
  assert set(rows[rows[:, 1] == 0][:, 0]) == set(range(4))


def test_starts_are_as_likely_as_each_other(dataset):
  windows = Windows(dataset, FEATURES, 2.0)
  rng = np.random.default_rng(0)
  found = [windows.locate(i, rng) for _ in range(400) for i in range(2, 6)]
  assert {record for record, _ in found} == {2}
  counts = np.bincount([int(start) for _, start in found], minlength=8)
  assert len(counts) == 8 and (abs(counts - 200) < 60).all()


def test_windows_are_found_across_blocks_of_records(tmp_path, monkeypatch):
  monkeypatch.setattr("melody_jax.input_pipeline.windows._BLOCK", 4)
  monkeypatch.setattr("melody_jax.input_pipeline.windows._AT_ONCE", 8)
  lengths = np.random.default_rng(0).integers(0, 7, 50)
  writer = ShardWriter(tmp_path, "train", 0, 1, {"audio": Feature(100.0, "int16")})
  for n in lengths:
    writer.write({}, {"audio": np.zeros(n * 100)})
  writer.close()
  windows = Windows(Dataset(tmp_path, "train"), {"audio": FEATURES["audio"]}, 2.0)
  expected = [(r, 2.0 * k) for r, n in enumerate(lengths) for k in range(n // 2)]
  assert [windows.locate(i) for i in range(len(windows))] == expected


def test_a_far_position_is_reached_without_reading(dataset, monkeypatch):
  far = 10**6
  whole = source(dataset, host=(1, 2))
  whole.set_state({"position": far - 2})
  batches = take(whole, 4)
  read = []
  honest = Dataset.example
  monkeypatch.setattr(Dataset, "example", lambda self, i: read.append(i) or honest(self, i))
  resumed = source(dataset, host=(1, 2))
  resumed.set_state({"position": far})
  batch = next(resumed)
  resumed.close()  # what was read ahead is counted, too
  assert same([batch], batches[2:3]) and len(read) < 30


def test_weights_share_the_rows_and_a_weight_of_0_reads_nothing(dataset, tmp_path):
  writer = ShardWriter(tmp_path / "b", "train", 0, 1, dataset.features)
  arrays = {"audio": np.zeros(900), "semantic_tokens": np.full(90, 7), "style_tokens": [[0, 9]] * 9}
  writer.write({"id": "b"}, {name: np.array(array) for name, array in arrays.items()})
  writer.close()
  both = [dataset, Dataset(tmp_path / "b", "train")]

  def share(weights):
    mixed = GrainSource(both, FEATURES, 2.0, 10, 3, weights)
    return np.mean([batch["style_tokens"][:, 1] == 9 for batch in take(mixed, 20)])

  assert share([0.7, 0.3]) == pytest.approx(0.3, abs=0.01)
  assert share(None) == pytest.approx(4 / 10, abs=0.05)  # 4 windows beside 6
  assert share([1.0, 0.0]) == 0 and share([0.0, 1.0]) == 1


def test_processes_read_what_threads_read(dataset):
  expected = take(source(dataset), 5)
  apart = source(dataset, workers=2)
  apart.set_state({"position": 1})
  try:
    assert same(take(apart, 4), expected[1:])
  finally:
    apart.close()
  with pytest.raises(UserError, match="the model expects"):
    next(GrainSource([dataset], FEATURES, 3.0, 4, 0, workers=1))
