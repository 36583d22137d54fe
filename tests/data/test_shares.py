"""Splits of small folders: whole songs, parts of one or two songs, files that cannot be used."""

import numpy as np
import pytest
import soundfile

from data.build import build_dataset
from data.music_folder import __main__ as command
from data.music_folder.corpus import FolderCorpus
from data.music_folder.shares import Share, parts, shares_of
from data.splits import TEST, TRAIN, VALIDATION
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from tests.data.conftest import tone

RATE = 8000


def write(folder, **songs):
  """Writes songs of these lengths in seconds, each with its own noise; returns the folder."""
  folder.mkdir()
  for i, (name, seconds) in enumerate(songs.items()):
    noise = 0.02 * np.random.default_rng(i).normal(size=round(seconds * RATE))
    soundfile.write(folder / f"{name}.wav", tone(seconds, RATE, seed=i) + noise, RATE)
  return folder


@pytest.mark.parametrize(
  ("seconds", "splits"),
  [(200.0, 3), (30.0, 3), (29.0, 2), (20.0, 2), (19.9, 1), (10.0, 1)],
)
def test_parts_follow_each_other_and_hold_a_window_each(seconds, splits):
  found = parts(seconds)
  assert [share.split for share in found] == [TRAIN, VALIDATION, TEST][:splits]
  if splits > 1:
    ends = [0.0, *(share.part[1] for share in found)]
    assert [share.part[0] for share in found] == ends[:-1] and ends[-1] == seconds
    assert all(share.part[1] - share.part[0] >= 10 for share in found)
    # The most of it trains, as soon as it is long enough.
    assert seconds < 100 or found[0].part[1] > 0.6 * seconds


def test_one_song_is_split_by_time_without_overlap(tmp_path, capsys):
  folder = write(tmp_path / "music", only=40)
  (folder / "captions.csv").write_text("file,caption\nonly.wav,a pulse\n")
  build_dataset(FolderCorpus(folder), tmp_path / "out")
  told = capsys.readouterr().err
  assert "1 song only: split by time" in told and "test, validation" in told
  whole = np.concatenate(
    [Dataset(tmp_path / "out", split).read(0, "audio") for split in (TRAIN, VALIDATION, TEST)]
  )
  # Put together they are the song, at one level: nothing twice, nothing lost.
  assert len(whole) == 40 * 24_000
  song = soundfile.read(folder / "only.wav")[0]
  song = np.interp(np.arange(len(whole)) / 24_000, np.arange(len(song)) / RATE, song)
  assert np.corrcoef(whole, song)[0, 1] > 0.99
  record = Dataset(tmp_path / "out", TEST).record(0)
  assert record["id"] == "music_folder/only.wav@test#0" and record["captions"] == ["a pulse"]


def test_takes_of_one_song_are_cut_at_the_same_seconds(tmp_path):
  folder = write(tmp_path / "music", a=40)
  soundfile.write(folder / "a.flac", tone(42, RATE), RATE)
  shares = shares_of(folder, ["a.flac", "a.wav"], {})
  starts = [[share.part[0] for share in shares[file]] for file in ("a.flac", "a.wav")]
  assert starts[0] == starts[1] and len(starts[0]) == 3
  assert shares["a.flac"][-1].part[1] == 42 and shares["a.wav"][-1].part[1] == 40


def test_two_songs_are_cut_or_the_second_one_validates(tmp_path, capsys):
  long = write(tmp_path / "long", a=25, b=12)
  assert [s.split for s in shares_of(long, ["a.wav", "b.wav"], {})["a.wav"]] == [TRAIN, VALIDATION]
  short = write(tmp_path / "short", a=12, b=11)
  assert shares_of(short, ["a.wav", "b.wav"], {}) == {
    "a.wav": [Share(TRAIN)], "b.wav": [Share(VALIDATION)],
  }  # fmt: skip
  assert "the second one is to validate on" in capsys.readouterr().err
  alone = write(tmp_path / "alone", a=12)
  assert shares_of(alone, ["a.wav"], {}) == {"a.wav": [Share(TRAIN)]}
  assert "nothing is held back" in capsys.readouterr().err


@pytest.mark.parametrize("broken", range(4))
def test_a_file_that_cannot_be_used_is_never_the_whole_of_a_split(tmp_path, broken):
  folder = write(tmp_path / "music", a=10.5, b=10.5, c=10.5, d=10.5)
  name = "abcd"[broken]
  (folder / f"{name}.wav").write_bytes(b"RIFF" + bytes(100))
  shares = shares_of(folder, [f"{n}.wav" for n in "abcd"], {})
  usable = {each[0].split for file, each in shares.items() if file != f"{name}.wav"}
  assert {TRAIN, VALIDATION} <= usable


def test_splits_that_the_owner_gave_stand(tmp_path, capsys):
  folder = write(tmp_path / "music", a=40)
  assert shares_of(folder, ["a.wav"], {"a.wav": TEST}) == {"a.wav": [Share(TEST)]}
  assert capsys.readouterr().err == ""


def test_captions_are_found_here_in_the_folder_and_beside_it(tmp_path, monkeypatch):
  folder, here = tmp_path / "home" / "Music", tmp_path / "here"
  folder.mkdir(parents=True), here.mkdir()
  monkeypatch.chdir(here)
  given = command.pathlib.Path("captions.csv")
  with pytest.raises(UserError, match="no captions file captions.csv"):
    command.captions_file(given, folder)
  for place in (tmp_path / "home", folder, here):
    (place / "captions.csv").write_text("file\n")
    found = command.captions_file(given, folder)
    assert found.resolve() == place / "captions.csv"
  assert command.captions_file(None, folder) is None
