"""The user's folder: captions by CSV, by JSONL, or none; splits; bad input in one line."""

import json
import os
import sys
import unicodedata

import numpy as np
import pytest
import soundfile

from data import build
from data.music_folder import __main__ as command
from data.music_folder.captions_file import read_captions
from data.music_folder.corpus import FolderCorpus
from melody_jax.command_line import flags
from melody_jax.command_line.streams import StdoutError
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import shards_of
from tests.data.conftest import tone

GOOD = {"a.wav", "b.flac", "album/c.ogg", "d.mp3"}


def records(root):
  return {r["id"]: (split, r) for split in shards_of(root) for r, _ in Dataset(root, split)}


def test_build_without_captions_measures_some_words(sounds, tmp_path):
  ledger = build.build_dataset(FolderCorpus(sounds), tmp_path)
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
  ledger = build.build_dataset(FolderCorpus(sounds, captions), tmp_path / "out")
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
  build.build_dataset(FolderCorpus(folder), tmp_path / "out")
  found = records(tmp_path / "out")
  assert found["music_folder/a.wav#0"][1]["captions"] == ["one", "two", "x, y"]
  assert found["music_folder/d.mp3#0"][1]["captions"] == ["three"]


def test_takes_of_one_name_share_a_split_and_small_folders_get_a_validation_track(sounds, tmp_path):
  audio = 0.3 * np.sin(np.arange(11 * 24_000) * 0.06)
  for i in range(6):
    for suffix in (".wav", ".flac"):
      soundfile.write(tmp_path / f"song{i}{suffix}", audio, 24_000)
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
  ledger = build.build_dataset(corpus, tmp_path / "out", licences="free")
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


def run(monkeypatch, folder, out, *more):
  """Runs the command in this process; returns its exit status."""
  arguments = [f"--folder={folder}", f"--data_dir={out}", *more]
  monkeypatch.setattr(sys, "argv", ["music_folder", *arguments])
  try:
    flags.run(command.main)
  except SystemExit as exit_:
    return exit_.code
  return 0


def test_what_was_found_and_what_was_not_is_printed_and_reported(tmp_path, monkeypatch, capsys):
  folder = tmp_path / "music"
  folder.mkdir()
  sound = tone(11)
  soundfile.write(folder / "a.wav", sound, 8000)
  soundfile.write(folder / "inverted.wav", np.stack([sound, -sound], 1), 8000)
  (folder / "link.wav").symlink_to("a.wav")
  (folder / "captions.csv").write_text("path;text;mood\na.wav;slow;sad\nlost.wav;x;y\n")
  assert run(monkeypatch, folder, tmp_path) == 0
  printed = capsys.readouterr().out
  report = json.loads((tmp_path / "music_folder/report.json").read_text())
  for line in (
    "links that lead to what is read already, and are not read again (1): link.wav",
    f"captions file {folder}/captions.csv: columns that were not understood: 'mood'",
    f"captions file {folder}/captions.csv: 1 of 2 files have captions",
    f"captions file {folder}/captions.csv: rows that match no file (1): lost.wav (line 3)",
  ):
    assert line in printed.splitlines() and line in report["remarks"]
  (note,) = report["notes"]
  assert note["track"] == "music_folder/inverted.wav" and "channels cancel" in note["note"]
  assert note["note"] in printed


@pytest.mark.parametrize("name", ["", "a/b", "..", "/x", ".hidden"])
def test_a_name_that_would_lie_elsewhere_is_refused(name, sounds, tmp_path, monkeypatch, capsys):
  assert run(monkeypatch, sounds, tmp_path, f"--name={name}") == 2
  assert f"--name={name}: use letters" in the_error(capsys)
  assert not list(tmp_path.iterdir())


def test_names_of_datasets():
  for name in ("a", "Musik für mich", "my-music_2", "音楽"):
    build.check_name(name)


def the_error(capsys) -> str:
  """The one line of an error, between bars and warnings."""
  lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
  assert not any("Traceback" in line for line in lines)
  (line,) = [line for line in lines if ": error: " in line]
  return line


def test_a_folder_without_a_usable_file_is_an_error(sounds, tmp_path, monkeypatch, capsys):
  folder = tmp_path / "music"
  folder.mkdir()
  for name in ("bad_silent.wav", "bad_short.wav", "bad_empty.mp3"):
    (folder / name).write_bytes((sounds / name).read_bytes())
  soundfile.write(folder / "offset.wav", np.full(8000 * 12, 0.4), 8000)
  assert run(monkeypatch, folder, tmp_path / "out") == 2
  line = the_error(capsys)
  assert "none of 4 files could be used (1 corrupt, 2 silent, 1 too_short)" in line
  assert "the first is music_folder/bad_empty.mp3: the file is empty" in line
  assert not list((tmp_path / "out").rglob("*.array_record*"))


def test_trouble_of_the_machine_stops_the_build_and_blames_no_file(
  sounds, tmp_path, monkeypatch, capsys
):
  def no_space(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(sys.modules[FolderCorpus.__module__], "load_audio", no_space)
  assert run(monkeypatch, sounds, tmp_path) == 2
  line = the_error(capsys)
  assert line.endswith("No space left on device") and "cannot load music_folder/" in line
  assert not (tmp_path / "music_folder/report.json").exists()


def test_a_full_standard_output_is_not_blamed_on_the_build(sounds, tmp_path, monkeypatch, capsys):
  def full(*_):
    raise StdoutError(28, "No space left on device")

  monkeypatch.setattr(build, "_announce", full)
  assert run(monkeypatch, sounds, tmp_path) == 2
  assert "cannot write to standard output: No space left" in the_error(capsys)


def test_a_folder_of_data_sets_that_cannot_be_made_is_named(sounds, monkeypatch, capsys):
  assert run(monkeypatch, sounds, "/proc/data") == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "cannot write /proc/data" in line


def test_without_a_home_the_data_directory_must_be_named(tmp_path, monkeypatch):
  monkeypatch.setattr("melody_jax.host.cache_folders.home", lambda: None)
  monkeypatch.delenv("MELODY_DATA", raising=False)
  assert build.default_data_dir() is None
  assert build.common_arguments("x").parse_args([f"--data_dir={tmp_path}"]).data_dir == tmp_path
  with pytest.raises(UserError, match="no home to put datasets in: .*--data_dir"):
    build.common_arguments("x").parse_args([])


@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_a_macs_names_match_captions_however_they_are_spelt(tmp_path, written):
  name = "Canción/Für Elise.wav"
  other = "NFD" if written == "NFC" else "NFC"
  path = tmp_path / unicodedata.normalize(written, name)
  path.parent.mkdir()
  path.write_bytes(b"x")
  captions = f"file,caption,split\n{unicodedata.normalize(other, name)},slow piano,test\n"
  (tmp_path / "captions.csv").write_text(captions, encoding="utf-8")
  (track,) = FolderCorpus(tmp_path).tracks()
  assert track.split == "test" and track.path == path
  assert FolderCorpus(tmp_path).describe(track, 0, np.zeros(1)).captions == ["slow piano"]


def test_a_caption_for_a_link_goes_to_the_file(tmp_path):
  (tmp_path / "a.wav").write_bytes(b"x")
  (tmp_path / "z.wav").symlink_to("a.wav")
  (tmp_path / "CAPTIONS.TSV").write_text("file\tcaption\nz.wav\tslow piano\n")
  corpus = FolderCorpus(tmp_path)
  (track,) = corpus.tracks()
  assert track.path == tmp_path / "a.wav"
  assert corpus.describe(track, 0, np.zeros(1)).captions == ["slow piano"]


def test_texts_with_other_ends_of_lines_are_read_back(tmp_path):
  folder = tmp_path / "music"
  folder.mkdir()
  name = "one\u2028two\x85three.wav"
  soundfile.write(os.fsencode(folder / name), tone(11), 8000, format="WAV")
  row = {"file": name, "caption": "slow\u2028piano", "author": "A\u2029B"}
  (folder / "captions.json").write_text(json.dumps([row], ensure_ascii=False), encoding="utf-8")
  build.build_dataset(FolderCorpus(folder), tmp_path / "out")
  ((_, record),) = records(tmp_path / "out").values()
  assert record["captions"] == ["slow piano"] and record["author"] == "A B"
  assert record["title"] == "one\u2028two\x85three"
  # Whoever reads the files by lines finds one record a line.
  (line,) = (tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
  assert json.loads(line)["title"] == record["title"]
