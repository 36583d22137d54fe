"""Files of a folder: links are followed once, or named."""

import os

import pytest

from data.files import find_files, some
from data.rendered.__main__ import midi_files
from melody_jax.errors import UserError


def is_wav(where):
  return where.endswith(".wav")


@pytest.fixture
def folder(tmp_path):
  for where in (
    "music/a.wav",
    "music/live/b.wav",
    "music/.hidden/c.wav",
    "music/x.txt",
    "far/d.wav",
  ):
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_text(where)
  return tmp_path / "music"


def test_links_to_files_and_folders_are_followed(folder):
  (folder / "d.wav").symlink_to(folder.parent / "far" / "d.wav")
  assert find_files(folder, is_wav, True).files == ("a.wav", "d.wav", "live/b.wav")
  (folder / "d.wav").unlink()
  (folder / "away").symlink_to(folder.parent / "far")
  found = find_files(folder, is_wav, True)
  assert found.files == ("a.wav", "away/d.wav", "live/b.wav") and found.notes == ()


def test_nothing_is_taken_twice_and_loops_end(folder):
  (folder / "again.wav").symlink_to("a.wav")
  (folder / "live" / "loop").symlink_to(folder)
  (folder / "same").symlink_to("live")
  (folder / "self.wav").symlink_to("self.wav")
  (folder / "gone.wav").symlink_to("nowhere.wav")
  (folder / "x_again.txt").symlink_to("x.txt")
  found = find_files(folder, is_wav, True)
  assert found.files == ("a.wav", "live/b.wav")
  assert found.notes == (
    "links that lead to what is read already, and are not read again (3):"
    " again.wav, same, live/loop",
    "links that lead nowhere (2): gone.wav, self.wav",
  )


def test_a_link_to_a_folder_around_the_music_brings_it_in_once(folder):
  (folder / "up").symlink_to(folder.parent)
  found = find_files(folder, is_wav, True)
  assert found.files == ("a.wav", "live/b.wav", "up/far/d.wav")
  assert "up/music" in found.notes[0]


def test_a_package_is_not_left(folder):
  (folder / "out.wav").symlink_to(folder.parent / "far" / "d.wav")
  found = find_files(folder, is_wav, False)
  assert found.files == ("a.wav", "live/b.wav")
  assert found.notes == ("links that lead out of the folder and are not followed (1): out.wav",)
  (folder / "p.mid").write_text("x")
  (folder / "q.mid").symlink_to("p.mid")
  files, notes = midi_files(folder)
  assert list(files) == ["p.mid"] and "q.mid" in notes[0]


def test_a_folder_that_cannot_be_listed_stops_the_search(folder, monkeypatch):
  listed = os.scandir

  def scandir(path):
    if str(path).endswith("live"):
      raise PermissionError(13, "Permission denied")
    return listed(path)

  monkeypatch.setattr("os.scandir", scandir)
  with pytest.raises(UserError, match="cannot list .*live: Permission denied"):
    find_files(folder, is_wav, True)


def test_many_names_are_counted():
  assert some(list("abcdefg")) == "a, b, c, d, e and 2 more" and some(["a"]) == "a"
