"""seqio over a dataset built from a tiny folder: content, seeds, resume, hosts, mixtures."""

import csv
import os
import re
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
import soundfile

pytest.importorskip("seqio", reason="TFDS and seqio need the [data] extra")

import seqio

from data.build import build_dataset
from data.music_folder.corpus import FolderCorpus
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.seqio_source import SeqioSource
from melody_jax.input_pipeline.seqio_tasks import add_task
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.task import WindowFeature

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
  writer = ShardWriter(root, "train", 0, 1, {
      "latents": Feature(10.0, "float16", (3,)), "semantic_tokens": Feature(5.0, "int16"),
      "style_tokens": Feature(1.0, "int16", (2,), per_window=True)})  # fmt: skip
  for i, seconds in enumerate((4, 9, 0, 7)):
    writer.write({"id": f"r{i}", "captions": ["one", "two"], "seconds": seconds}, {
        "latents": np.tile(np.arange(seconds * 10)[:, None], 3) + 100 * i + offset,
        "semantic_tokens": np.arange(seconds * 5) + 100 * i,
        "style_tokens": np.stack([np.arange(seconds), np.full(seconds, i)], 1)})  # fmt: skip
  writer.close()


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
  folder, root = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("datasets")
  rng = np.random.default_rng(0)
  with open(folder / "captions.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["file", "caption", "split"])
    for i in range(6):
      soundfile.write(folder / f"{i}.wav", rng.uniform(-0.3, 0.3, 8000 * (10 + i)), 8000)
      rows.writerow([f"{i}.wav", f"t{i}ab", "validation" if i == 5 else "train"])
  (folder / "broken.ogg").write_bytes(b"OggS but not really")
  build_dataset(FolderCorpus(folder), root / "music_folder")
  for name, offset in (("encoded", 0), ("encoded2", 1000)):
    write_encoded(root / name, offset)
  return str(root)


def config(roots, path="music_folder", seconds=SAMPLES / 24_000, batch_size=4, seed=3, weights=""):
  return ml_collections.ConfigDict({
      "seed": seed, "window_seconds": seconds, "train": {"batch_size": batch_size},
      "data": {"path": ",".join(f"{roots}/{name}" for name in path.split(",")),
               "weights": weights}})  # fmt: skip


def take(source, n):
  return [next(source) for _ in range(n)]


def assert_same(batches, expected):
  for batch, other in zip(batches, expected, strict=True):
    assert set(batch) == set(other)
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])


def test_rows_are_windows_of_the_audio_with_a_caption_of_their_record(roots):
  dataset = Dataset(f"{roots}/music_folder", "train")
  records = {r["captions"][0][:2]: arrays["audio"] / 32768 for r, arrays in dataset}
  assert len(dataset) == 5
  batch = next(SeqioSource(config(roots), {**AUDIO, **TEXT}, "train", tokenize=tokenize))
  assert batch["audio"].shape == (4, SAMPLES) and batch["audio"].dtype == np.float32
  assert batch["text_mask"].dtype == bool and batch["text_ids"].dtype == np.int32
  for row, ids in zip(batch["audio"], batch["text_ids"], strict=True):
    audio = records["".join(map(chr, ids[:2]))]
    starts = np.flatnonzero(np.isclose(audio[: 1 - SAMPLES], row[0], atol=1e-6))
    assert any(np.allclose(audio[s : s + SAMPLES], row, atol=1e-6) for s in starts)


def test_encoded_features_of_a_window_are_aligned(roots):
  for batch in take(SeqioSource(config(roots, "encoded", seconds=1.0), ENCODED, "train"), 6):
    start, record = batch["style_tokens"][:, 0], batch["style_tokens"][:, 1]
    np.testing.assert_array_equal(batch["latents"][:, 0, 0], start * 10 + 100 * record)
    np.testing.assert_array_equal(batch["semantic_tokens"][:, 0], start * 5 + 100 * record)
    assert set(record) <= {0, 1, 3}, "the empty record holds no window"
    assert batch["latents"].dtype == np.float32 and batch["semantic_tokens"].dtype == np.int32


def test_resumed_mid_epoch_and_across_epochs_equals_uninterrupted(roots):
  def make(seed=3):
    return SeqioSource(config(roots, "encoded", seconds=1.0, seed=seed), ENCODED, "train")

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


def test_evaluation_reads_every_window_once_in_order(roots):
  def make():
    run = config(roots, "encoded", seconds=1.0, batch_size=5)
    return SeqioSource(run, ENCODED, "train", shuffle=False)

  batches = take(make(), 5)
  rows = np.concatenate([batch["style_tokens"] for batch in batches[:4]])
  every_window = {(s, i) for i, n in ((0, 4), (1, 9), (3, 7)) for s in range(n)}
  assert {tuple(map(int, row)) for row in rows} == every_window
  assert_same(take(make(), 5), batches)
  assert_same(batches[4:], batches[:1])


def test_hosts_read_disjoint_rows_that_cover_the_data(roots):
  seen = []
  for host in range(2):
    source = SeqioSource(
      config(roots, "encoded", seconds=1.0), ENCODED, "train", shuffle=False, host=(host, 2)
    )
    rows = np.concatenate([batch["style_tokens"] for batch in take(source, 10)])
    seen.append({tuple(map(int, row)) for row in rows})
  assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 20


def test_a_mixture_draws_by_weight_and_names_what_is_missing(roots):
  wanted = {"latents": ENCODED["latents"]}
  source = SeqioSource(config(roots, "encoded,encoded2", 1.0, weights="0.8,0.2"), wanted, "train")
  marks = np.concatenate([batch["latents"][:, 0, 0] for batch in take(source, 50)])
  assert 0.1 < (marks >= 1000).mean() < 0.32
  with pytest.raises(UserError, match="encoded, split train, lacks audio"):
    SeqioSource(config(roots, "music_folder,encoded"), AUDIO, "train")


@pytest.mark.parametrize(("overrides", "split", "message"), [
    ({"path": "nothing"}, "train", "no seqio task .*nothing' is registered .* no dataset dir"),
    ({}, "test", "has no split 'test'"),
    ({"seconds": 100.0}, "train", "no record"),
])  # fmt: skip
def test_bad_configs_end_in_one_line(roots, overrides, split, message):
  with pytest.raises(UserError, match=message) as error:
    SeqioSource(config(roots, **overrides), AUDIO, split)
  assert "\n" not in str(error.value)


def test_the_script_of_the_docs_runs_on_our_datasets(tmp_path, repository, roots):
  page = (repository / "data" / "README.md").read_text("utf-8")
  script = re.search(r"^# my_tasks.py\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
  # The documented names are those of directories.
  for name in ("RECORDED", "RENDERED"):
    (tmp_path / name).symlink_to(f"{roots}/music_folder")
  (tmp_path / "my_tasks.py").write_text(script)
  done = subprocess.run(
    [sys.executable, "my_tasks.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
    env=os.environ | {"PYTHONPATH": str(repository)},
  )  # fmt: skip
  assert done.stdout.splitlines() == ["(240000,)"] * 3, done.stderr[-2000:]


def test_a_mixture_of_a_user_reads_our_datasets(roots):
  wanted = {"latents": ENCODED["latents"]}
  for name in ("encoded", "encoded2"):
    add_task(f"{roots}/{name}", wanted, 1.0, name=f"mine_{name}")
  seqio.MixtureRegistry.add("my_mix", [("mine_encoded", 1.0), ("mine_encoded2", 1.0)])
  try:
    rows = seqio.get_mixture_or_task("my_mix").get_dataset(
      {"latents": 10}, "train", shuffle=True, seed=1, num_epochs=None
    )
    first = [row["latents"] for row in rows.take(40).as_numpy_iterator()]
    again = [row["latents"] for row in rows.take(40).as_numpy_iterator()]
    np.testing.assert_array_equal(first, again)
    assert first[0].shape == (10, 3) and {row[0, 0] >= 1000 for row in first} == {True, False}
  finally:
    seqio.MixtureRegistry.remove("my_mix")


def test_starting_and_going_on_read_nothing_beforehand(roots, monkeypatch):
  read = []
  honest = Dataset.example
  monkeypatch.setattr(Dataset, "example", lambda self, i: read.append(i) or honest(self, i))
  source = SeqioSource(config(roots, "encoded", seconds=1.0), ENCODED, "train")
  assert len(read) < 10, "one row, to see that there is one, and what is read ahead of it"
  source.set_state({"epoch": 10**6, "position": 2})
  del read[:]
  next(source)
  assert len(read) < 50
