"""The array dataset: what is written is read back, and nothing half-written is seen."""

import json

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset, Feature, ShardWriter, json_text

FEATURES = {
  "audio": Feature(100.0, "int16"),
  "latents": Feature(10.0, "float16", (3,)),
  "style_tokens": Feature(1.0, "int16", (2,), per_window=True),
}


def write(root, shards=2, records=5, split="train"):
  rng = np.random.default_rng(0)
  kept = {}
  for shard in range(shards):
    writer = ShardWriter(root / split, shard, shards, FEATURES)
    for i in range(shard, records, shards):
      seconds = 3 + i
      arrays = {
        "audio": rng.integers(-99, 99, seconds * 100).astype(np.int16),
        "latents": rng.normal(size=(seconds * 10, 3)).astype(np.float16),
        "style_tokens": rng.integers(0, 9, (seconds, 2)).astype(np.int16),
      }
      kept[f"r{i}"] = arrays
      writer.write({"id": f"r{i}", "captions": [f"caption {i}", "other"]}, arrays)
    writer.close()
  return kept


def test_round_trip(tmp_path):
  kept = write(tmp_path)
  dataset = ArrayDataset(tmp_path, "train")
  assert len(dataset) == 5
  for record, arrays in dataset:
    for name, array in kept[record["id"]].items():
      np.testing.assert_array_equal(arrays[name], array)
      assert arrays[name].dtype == array.dtype


def test_read_part_of_a_record(tmp_path):
  kept = write(tmp_path)
  dataset = ArrayDataset(tmp_path, "train")
  name = dataset.record(1)["id"]
  np.testing.assert_array_equal(dataset.read(1, "latents", 4, 7), kept[name]["latents"][4:11])
  assert dataset.length(1, "latents") == len(kept[name]["latents"])


def test_unfinished_shard_is_invisible_and_named(tmp_path):
  writer = ShardWriter(tmp_path / "train", 0, 1, FEATURES)
  with pytest.raises(UserError, match="no array dataset"):
    ArrayDataset(tmp_path, "train")
  writer.close()
  assert len(ArrayDataset(tmp_path, "train")) == 0


def test_missing_shard_is_an_error(tmp_path):
  ShardWriter(tmp_path / "train", 0, 2, FEATURES).close()
  with pytest.raises(UserError, match="1 of 2 shards"):
    ArrayDataset(tmp_path, "train")


def test_wrong_frames_are_refused(tmp_path):
  writer = ShardWriter(tmp_path / "train", 0, 1, {"latents": FEATURES["latents"]})
  with pytest.raises(ValueError, match="frames of shape"):
    writer.write({"id": "x"}, {"latents": np.zeros((4, 2))})


@pytest.mark.parametrize(
  "text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x0b\x1cb", "a\nb", "é音", "\udce9"]
)
def test_texts_are_read_back_whatever_ends_of_lines_they_hold(tmp_path, text):
  writer = ShardWriter(tmp_path / "train", 0, 1, {"audio": FEATURES["audio"]})
  for i in range(2):
    writer.write({"id": str(i), "title": text}, {"audio": np.zeros(4, np.int16)})
  records = writer.close() / "records.jsonl"
  assert [r["title"] for r, _ in ArrayDataset(tmp_path, "train")] == [text, text]
  assert len(records.read_text("utf-8").splitlines()) == 2
  # As earlier versions wrote it.
  lines = [json.dumps({"id": str(i), "title": "a\u2028b"}, ensure_ascii=False) for i in range(2)]
  records.write_text("\n".join(lines) + "\n", "utf-8")
  assert [r["title"] for r, _ in ArrayDataset(tmp_path, "train")] == ["a\u2028b"] * 2


def test_json_keeps_letters_of_all_languages():
  assert json_text({"a": "é音\u2028"}) == '{"a": "é音\\u2028"}'
