"""Windows from array datasets: alignment, determinism, resume, hosts."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset, Feature, ShardWriter
from melody_jax.input_pipeline.array_source import ArraySource
from melody_jax.task import WindowFeature

FEATURES = {
  "audio": WindowFeature((200,), "float32"),
  "semantic_tokens": WindowFeature((20,), "int32"),
  "style_tokens": WindowFeature((2,), "int32"),
}


@pytest.fixture
def dataset(tmp_path):
  writer = ShardWriter(
    tmp_path / "train",
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
  return ArrayDataset(tmp_path, "train")


def source(dataset, **kwargs):
  return ArraySource([dataset], FEATURES, 2.0, **{"batch_size": 4, "seed": 1, **kwargs})


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

  text_source = ArraySource([dataset], features, 2.0, 4, 0, tokenize=tokenize)
  batches = [next(text_source) for _ in range(8)]
  assert batches[0]["text_ids"].shape == (4, 3)
  assert set(seen) == {"one", "two"}


def test_missing_feature_and_long_window_are_errors(dataset):
  with pytest.raises(UserError, match="lacks latents"):
    ArraySource([dataset], {"latents": WindowFeature((1, 1), "float32")}, 2.0, 4, 0)
  with pytest.raises(UserError, match="no record is as long"):
    ArraySource([dataset], FEATURES, 60.0, 4, 0)
  with pytest.raises(UserError, match="the model expects"):
    next(ArraySource([dataset], FEATURES, 3.0, 4, 0))
