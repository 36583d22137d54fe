"""Datasets on disk: what is written is read back, by TFDS too, and nothing half-written is seen."""

import os
import pickle
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.input_pipeline import shards
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import Feature, ShardWriter, json_text

FEATURES = {
  "audio": Feature(100.0, "int16"),
  "latents": Feature(10.0, "float16", (3,)),
  "style_tokens": Feature(1.0, "int16", (2,), per_window=True),
}


def write(root, count=2, records=5, split="train"):
  rng = np.random.default_rng(0)
  kept = {}
  for shard in range(count):
    writer = ShardWriter(root, split, shard, count, FEATURES)
    for i in range(shard, records, count):
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


def same(arrays, kept):
  for name, array in kept.items():
    np.testing.assert_array_equal(arrays[name], array)
    assert arrays[name].dtype == array.dtype


def test_round_trip(tmp_path):
  kept = write(tmp_path)
  dataset = Dataset(tmp_path, "train")
  assert len(dataset) == 5
  for record, arrays in dataset:
    same(arrays, kept[record["id"]])
  assert [r["id"] for r, _ in pickle.loads(pickle.dumps(dataset))] == ["r0", "r2", "r4", "r1", "r3"]


READ_BY_TFDS = """
from importlib.machinery import PathFinder
import sys
there = PathFinder.find_spec
# As if it were not installed: TFDS looks for it before it does without.
PathFinder.find_spec = classmethod(
  lambda cls, name, *a: None if name.partition(".")[0] == "tensorflow" else there(name, *a))
import numpy as np, tensorflow_datasets as tfds
source = tfds.data_source("songs", data_dir=sys.argv[1], split="train")
again = tfds.builder_from_directory(sys.argv[1] + "/songs/1.0.0").as_data_source("train")
for i, record in enumerate(source):
  assert record["captions"] == again[i]["captions"] and len(again) == len(source)
  np.savez(f"{sys.argv[1]}/{record['id'].decode()}.npz", **{
    k: record[k] for k in ("audio", "latents", "style_tokens")})
assert not [m for m in sys.modules if m == "tensorflow" or m.startswith("melody_jax")]
"""


def test_tfds_reads_it_without_tensorflow_and_without_our_code(tmp_path):
  kept = write(tmp_path / "songs")
  subprocess.run([sys.executable, "-c", READ_BY_TFDS, str(tmp_path)], check=True, cwd=tmp_path)
  for name, arrays in kept.items():
    same(np.load(tmp_path / f"{name}.npz"), arrays)


def test_read_part_of_a_record(tmp_path):
  kept = write(tmp_path)
  dataset = Dataset(tmp_path, "train")
  name = dataset.record(1)["id"]
  np.testing.assert_array_equal(dataset.read(1, "latents", 4, 7), kept[name]["latents"][4:11])
  assert dataset.length(1, "latents") == len(kept[name]["latents"])


def test_more_shards_than_files_may_be_open(tmp_path):
  write(tmp_path, count=12, records=12)
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  dataset = Dataset(tmp_path, "train")
  dataset._records._most_open = 3
  before = len(os.listdir("/proc/self/fd"))
  ids = [dataset.record(i)["id"] for i in [*range(12), *range(12)]]
  assert sorted(ids) == sorted(2 * [f"r{i}" for i in range(12)])
  assert len(os.listdir("/proc/self/fd")) <= before + 3
  assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits, "there are few shards"


def test_unfinished_shard_is_invisible_and_named(tmp_path):
  writer = ShardWriter(tmp_path, "train", 0, 1, FEATURES)
  with pytest.raises(UserError, match="is no dataset"):
    Dataset(tmp_path, "train")
  writer.close()
  assert len(Dataset(tmp_path, "train")) == 0
  # What a killed writer left is gone when its shard is written again.
  ShardWriter(tmp_path, "train", 0, 1, FEATURES)
  ShardWriter(tmp_path, "train", 0, 1, FEATURES).close()
  assert not [p for p in (tmp_path / "1.0.0").iterdir() if p.name.startswith(".")]


def test_missing_shard_is_an_error(tmp_path):
  ShardWriter(tmp_path, "train", 0, 2, FEATURES).close()
  with pytest.raises(UserError, match="1 of 2 shards"):
    Dataset(tmp_path, "train")
  ShardWriter(tmp_path, "train", 1, 2, FEATURES).close()
  next((tmp_path / "1.0.0").glob("*-train.array_record-00001-of-00002")).unlink()
  with pytest.raises(UserError, match="1 of 2 shards"):
    Dataset(tmp_path, "train")


def test_a_damaged_note_is_a_missing_shard(tmp_path):
  write(tmp_path, count=1)
  note = tmp_path / "1.0.0" / "shards" / "train-00000-of-00001.json"
  note.write_text(note.read_text()[:50])
  with pytest.raises(UserError, match="0 of 1 shards"):
    Dataset(tmp_path, "train")
  shards.finish(tmp_path)


def test_a_split_that_is_being_written_hides_no_other(tmp_path):
  write(tmp_path)
  ShardWriter(tmp_path, "validation", 0, 2, FEATURES).close()
  assert len(Dataset(tmp_path, "train")) == 5
  with pytest.raises(UserError, match="1 of 2 shards"):
    Dataset(tmp_path, "validation")
  write(tmp_path, split="validation")
  assert len(Dataset(tmp_path, "validation")) == 5


def test_a_dataset_may_be_moved_and_equal_ones_have_one_digest(tmp_path):
  kept = write(tmp_path / "Música")
  shutil.move(tmp_path / "Música", tmp_path / "other")
  same(next(iter(Dataset(tmp_path / "other", "train")))[1], kept["r0"])
  write(tmp_path / "again")
  assert shards.digest(tmp_path / "other") == shards.digest(tmp_path / "again")
  write(tmp_path / "again", records=6)
  assert shards.digest(tmp_path / "other") != shards.digest(tmp_path / "again")


def test_wrong_frames_are_refused(tmp_path):
  writer = ShardWriter(tmp_path, "train", 0, 1, {"latents": FEATURES["latents"]})
  with pytest.raises(ValueError, match="frames of shape"):
    writer.write({"id": "x"}, {"latents": np.zeros((4, 2))})


@pytest.mark.parametrize(
  "text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x0b\x1cb", "a\nb", "é音", "\udce9"]
)
def test_records_are_read_back_whatever_they_hold(tmp_path, text):
  record = {"id": "1", "title": text, "tags": [text], "tempo": {"bpm": [90.5, None]}, "package": ""}
  writer = ShardWriter(tmp_path, "train", 0, 1, {"audio": FEATURES["audio"]})
  writer.write(record, {"audio": np.zeros(4, np.int16)})
  writer.close()
  assert [r for r, _ in Dataset(tmp_path, "train")] == [record]


def test_json_keeps_letters_of_all_languages():
  assert json_text({"a": "é音\u2028"}) == '{"a": "é音\\u2028"}'


def test_a_dataset_of_an_older_version_is_told(tmp_path):
  (tmp_path / "train" / "shard-00000-of-00001").mkdir(parents=True)
  (tmp_path / "train" / "shard-00000-of-00001" / "index.json").write_text("{}")
  with pytest.raises(UserError, match="of an older version: build or encode it again"):
    Dataset(tmp_path, "train")
