"""The user's folder: captions by CSV, by JSONL, or none; splits; bad input in one line."""

import json

import pytest

from data.build import build_arrays
from data.music_folder.captions_file import read_captions
from data.music_folder.corpus import FolderCorpus
from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ArrayDataset

GOOD = {"a.wav", "b.flac", "album/c.ogg", "d.mp3"}


def records(root):
  splits = [path.name for path in root.iterdir() if path.is_dir()]
  return {r["id"]: (split, r) for split in splits for r, _ in ArrayDataset(root, split)}


def test_build_without_captions_measures_some_words(sounds, tmp_path):
  ledger = build_arrays(FolderCorpus(sounds), tmp_path)
  found = records(tmp_path)
  assert {r["track"].split("/", 1)[1] for _, r in found.values()} == GOOD
  assert all(r["captions"] and "music" in r["captions"][0].lower() for _, r in found.values())
  report = json.loads((tmp_path / "report.json").read_text())
  assert report == ledger.report()
  assert report["quarantined"] == {"corrupt": 3, "silent": 1, "too_short": 1}
  rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
  assert {"track", "licence", "author", "source", "title", "seconds", "split"} <= set(rows[0])
  assert len(rows) == 4 and all(row["licence"] == "own" for row in rows)


def test_csv_captions_tags_and_split(sounds, tmp_path):
  captions = tmp_path / "my.csv"
  captions.write_text(
    "file,caption,tags,licence,split\n"
    'a.wav,"slow, quiet piano|piano at night","piano, night",CC-BY-4.0,test\n'
    "album/c.ogg,,,,\n"
  )
  ledger = build_arrays(FolderCorpus(sounds, captions), tmp_path / "out")
  split, record = records(tmp_path / "out")["music_folder/a.wav#0"]
  assert split == "test" and record["licence"] == "CC-BY-4.0"
  assert record["captions"] == ["slow, quiet piano", "piano at night", "piano, night"]
  assert record["tags"] == ["piano", "night"]
  assert ledger.report()["licences"].keys() == {"CC-BY-4.0", "own"}


def test_jsonl_captions_lie_in_the_folder(sounds, tmp_path):
  folder = tmp_path / "music"
  folder.mkdir()
  for name in ("a.wav", "d.mp3"):
    (folder / name).write_bytes((sounds / name).read_bytes())
  rows = [
    {"file": "a.wav", "captions": ["one", "two"], "tags": ["x", "y"]},
    {"file": "d.mp3", "caption": "three"},
  ]
  (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
  build_arrays(FolderCorpus(folder), tmp_path / "out")
  found = records(tmp_path / "out")
  assert found["music_folder/a.wav#0"][1]["captions"] == ["one", "two", "x, y"]
  assert found["music_folder/d.mp3#0"][1]["captions"] == ["three"]


def test_takes_of_one_name_share_a_split_and_small_folders_get_a_validation_track(sounds, tmp_path):
  for i in range(6):
    for suffix in (".wav", ".flac"):
      (tmp_path / f"song{i}{suffix}").write_bytes(b"x")
  tracks = FolderCorpus(tmp_path).tracks()
  splits = {
    t.id.rsplit(".", 1)[0]: {u.split for u in tracks if u.id.startswith(t.id.rsplit(".", 1)[0])}
    for t in tracks
  }
  assert all(len(sides) == 1 for sides in splits.values())
  assert sum(sides == {"validation"} for sides in splits.values()) == 1


def test_licence_switch_keeps_the_free_subset(sounds, tmp_path):
  captions = tmp_path / "c.csv"
  captions.write_text("file,licence\na.wav,GPL-2+\nb.flac,CC-BY-SA-3.0\n")
  corpus = FolderCorpus(sounds, captions, licence="all rights reserved")
  ledger = build_arrays(corpus, tmp_path / "out", licences="free")
  assert [row["track"] for row in ledger.manifest] == ["music_folder/b.flac"]


@pytest.mark.parametrize(("content", "message"), [
    ("name,caption\na.wav,x\n", "line 1: no column 'file' among 'name', 'caption'"),
    ("file,split\na.wav,dev\n", "split 'dev' is not one of"),
])  # fmt: skip
def test_wrong_captions_name_the_line(tmp_path, content, message):
  (tmp_path / "c.csv").write_text(content)
  with pytest.raises(UserError, match=message):
    read_captions(tmp_path / "c.csv")


def test_malformed_jsonl_missing_folder_and_empty_folder(tmp_path, sounds):
  (tmp_path / "c.jsonl").write_text('{"file": "a.wav"\n')
  with pytest.raises(UserError, match="line 1: malformed"):
    read_captions(tmp_path / "c.jsonl")
  with pytest.raises(UserError, match="does not exist"):
    FolderCorpus(tmp_path / "nowhere")
  with pytest.raises(UserError, match="no audio file"):
    FolderCorpus(tmp_path)
  (tmp_path / "c.csv").write_text("file\nmissing.wav\n")
  with pytest.raises(UserError, match="the first is missing.wav"):
    FolderCorpus(sounds, tmp_path / "c.csv")
