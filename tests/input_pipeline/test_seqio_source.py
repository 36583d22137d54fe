"""seqio over a TFDS dataset built from a tiny folder: content, seeds, resume, hosts, mixtures."""

import csv
import shutil

import ml_collections
import numpy as np
import pytest
import soundfile

pytest.importorskip("seqio", reason="TFDS and seqio need the [data] extra")

import tensorflow_datasets as tfds

from data.music_folder.corpus import FolderCorpus
from data.tfds_builder import build_tfds, build_tfds_from_arrays
from melody_jax import encode
from melody_jax.errors import UserError
from melody_jax.input_pipeline import tfds_records
from melody_jax.input_pipeline.array_dataset import ArrayDataset, Feature, ShardWriter
from melody_jax.input_pipeline.seqio_source import SeqioSource
from melody_jax.input_pipeline.tfds_records import open_split
from melody_jax.task import WindowFeature
from tests.configs import load_config

SAMPLES = 2400  # a window of 0.1 s keeps batches small
AUDIO = {"audio": WindowFeature((SAMPLES,), "float32")}
TEXT = {"text_ids": WindowFeature((4,), "int32", 128), "text_mask": WindowFeature((4,), "bool")}
ENCODED = {
  "latents": WindowFeature((10, 3), "float32"),
  "semantic_tokens": WindowFeature((5,), "int32", 1024),
  "style_tokens": WindowFeature((2,), "int32", 1024),
}


def tokenize(text):
  ids = np.array([ord(c) for c in text[:4].ljust(4)], np.int32)
  return ids, ids != ord(" ")


def write_encoded(root, offset=0):
  """Records whose every frame tells its record and its time."""
  writer = ShardWriter(root / "train", 0, 1, {
      "latents": Feature(10.0, "float16", (3,)), "semantic_tokens": Feature(5.0, "int16"),
      "style_tokens": Feature(1.0, "int16", (2,), per_window=True)})  # fmt: skip
  for i, seconds in enumerate((4, 9, 0, 7)):
    writer.write({"id": f"r{i}", "captions": ["one", "two"], "seconds": seconds}, {
        "latents": np.tile(np.arange(seconds * 10)[:, None], 3) + 100 * i + offset,
        "semantic_tokens": np.arange(seconds * 5) + 100 * i,
        "style_tokens": np.stack([np.arange(seconds), np.full(seconds, i)], 1)})  # fmt: skip
  writer.close()


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  folder, root = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("tfds")
  rng = np.random.default_rng(0)
  with open(folder / "captions.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["file", "caption", "split"])
    for i in range(6):
      soundfile.write(folder / f"{i}.wav", rng.uniform(-0.3, 0.3, 8000 * (10 + i)), 8000)
      rows.writerow([f"{i}.wav", f"t{i}ab", "validation" if i == 5 else "train"])
  (folder / "broken.ogg").write_bytes(b"OggS but not really")
  where, ledger = build_tfds(FolderCorpus(folder), root)
  assert ledger.report()["quarantined"] == {"corrupt": 1}
  assert (where / "manifest.jsonl").exists() and (where / "report.json").exists()
  for name, offset in (("encoded", 0), ("encoded2", 1000)):
    write_encoded(folder / name, offset)
    build_tfds_from_arrays(folder / name, name, ["train"], root)
  return str(root)


def config(
  tfds_dir, path="music_folder", seconds=SAMPLES / 24_000, batch_size=4, seed=3, weights=""
):
  return ml_collections.ConfigDict({
      "seed": seed, "window_seconds": seconds, "train": {"batch_size": batch_size},
      "data": {"tfds_dir": tfds_dir, "path": path, "weights": weights}})  # fmt: skip


def take(source, n):
  return [next(source) for _ in range(n)]


def assert_same(batches, expected):
  for batch, other in zip(batches, expected, strict=True):
    assert set(batch) == set(other)
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


def test_rows_are_windows_of_the_audio_with_a_caption_of_their_record(tfds_dir):
  count, read = open_split(tfds_dir, "music_folder", "train")
  records = {record["captions"][0][:2]: audio for record, audio in read(range(count))}
  assert count == 5
  batch = next(SeqioSource(config(tfds_dir), {**AUDIO, **TEXT}, "train", tokenize=tokenize))
  assert batch["audio"].shape == (4, SAMPLES) and batch["audio"].dtype == np.float32
  assert batch["text_mask"].dtype == bool and batch["text_ids"].dtype == np.int32
  for row, ids in zip(batch["audio"], batch["text_ids"], strict=True):
    audio = records["".join(map(chr, ids[:2]))]
    starts = np.flatnonzero(np.isclose(audio[: 1 - SAMPLES], row[0], atol=1e-6))
    assert any(np.allclose(audio[s : s + SAMPLES], row, atol=1e-6) for s in starts)


def test_encoding_reads_each_record_of_tfds_once_however_many_shards(
  tfds_dir, tmp_path, monkeypatch
):
  passes, decoded = [], []
  honest = tfds.core.DatasetBuilder.as_dataset
  monkeypatch.setattr(
    tfds.core.DatasetBuilder, "as_dataset",
    lambda self, **options: passes.append(options) or honest(self, **options),
  )  # fmt: skip
  record = tfds_records._record
  monkeypatch.setattr(
    tfds_records, "_record", lambda *args: decoded.append(record(*args)["id"]) or record(*args)
  )
  settings = load_config("encode")
  settings.update(
    source=tfds_dir, tfds="music_folder", out=str(tmp_path), features="audio", splits="train",
    shards=3,
  )  # fmt: skip
  encode.main(settings)
  dataset = ArrayDataset(tmp_path, "train")
  ids = [dataset.record(i)["id"] for i in range(5)]
  assert len(passes) == 1 and decoded == ids and len(set(ids)) == 5
  whole = [dataset.read(i, "audio") for i in range(5)]
  # One shard that is missing costs one pass, from its first record to its last.
  (lost,) = tmp_path.glob("train/shard-00001-*")
  shutil.rmtree(lost)
  encode.main(settings)
  assert len(passes) == 2 and decoded[5:] == ids[1:3]
  dataset = ArrayDataset(tmp_path, "train")
  for i in range(5):
    np.testing.assert_array_equal(dataset.read(i, "audio"), whole[i])


def test_encoded_features_of_a_window_are_aligned(tfds_dir):
  for batch in take(SeqioSource(config(tfds_dir, "encoded", seconds=1.0), ENCODED, "train"), 6):
    start, record = batch["style_tokens"][:, 0], batch["style_tokens"][:, 1]
    np.testing.assert_array_equal(batch["latents"][:, 0, 0], start * 10 + 100 * record)
    np.testing.assert_array_equal(batch["semantic_tokens"][:, 0], start * 5 + 100 * record)
    assert set(record) <= {0, 1, 3}, "the empty record holds no window"
    assert batch["latents"].dtype == np.float32 and batch["semantic_tokens"].dtype == np.int32


def test_resumed_mid_epoch_and_across_epochs_equals_uninterrupted(tfds_dir):
  def make(seed=3):
    return SeqioSource(config(tfds_dir, "encoded", seconds=1.0, seed=seed), ENCODED, "train")

  assert make().windows == 20
  whole = take(make(), 8)  # so an epoch is 5 batches
  for stop in (3, 6):
    first = make()
    take(first, stop)
    state = first.get_state()
    resumed = make()
    resumed.set_state(state)
    assert_same(take(resumed, 8 - stop), whole[stop:])
  assert any((a != b).any() for a, b in zip(next(make(4)).values(), whole[0].values(), strict=True))
  assert any((a != b).any() for a, b in zip(whole[5].values(), whole[0].values(), strict=True))


def test_evaluation_reads_every_window_once_in_order(tfds_dir):
  def make():
    run = config(tfds_dir, "encoded", seconds=1.0, batch_size=5)
    return SeqioSource(run, ENCODED, "train", shuffle=False)

  batches = take(make(), 5)
  rows = np.concatenate([batch["style_tokens"] for batch in batches[:4]])
  every_window = {(s, i) for i, n in ((0, 4), (1, 9), (3, 7)) for s in range(n)}
  assert {tuple(map(int, row)) for row in rows} == every_window
  assert_same(take(make(), 5), batches)
  assert_same(batches[4:], batches[:1])


def test_hosts_read_disjoint_rows_that_cover_the_data(tfds_dir):
  seen = []
  for host in range(2):
    source = SeqioSource(
      config(tfds_dir, "encoded", seconds=1.0), ENCODED, "train", shuffle=False, host=(host, 2)
    )
    rows = np.concatenate([batch["style_tokens"] for batch in take(source, 10)])
    seen.append({tuple(map(int, row)) for row in rows})
  assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 20


def test_a_mixture_draws_by_weight_and_names_what_is_missing(tfds_dir):
  wanted = {"latents": ENCODED["latents"]}
  source = SeqioSource(
    config(tfds_dir, "encoded,encoded2", 1.0, weights="0.8,0.2"), wanted, "train"
  )
  marks = np.concatenate([batch["latents"][:, 0, 0] for batch in take(source, 50)])
  assert 0.1 < (marks >= 1000).mean() < 0.32
  with pytest.raises(UserError, match="encoded lacks audio"):
    SeqioSource(config(tfds_dir, "music_folder,encoded"), AUDIO, "train")


@pytest.mark.parametrize(("overrides", "split", "message"), [
    ({"path": "nothing"}, "train", "no TFDS dataset 'nothing'.*encoded, encoded2, music_folder"),
    ({}, "test", "has no split 'test'"),
    ({"seconds": 100.0}, "train", "no record"),
])  # fmt: skip
def test_bad_configs_end_in_one_line(tfds_dir, overrides, split, message):
  with pytest.raises(UserError, match=message) as error:
    SeqioSource(config(tfds_dir, **overrides), AUDIO, split)
  assert "\n" not in str(error.value)
