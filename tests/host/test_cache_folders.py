"""Cache folders for users whose home cannot be written, or who have none."""

import os
import pathlib
import stat
import tempfile

import pytest

from melody_jax.errors import UserError
from melody_jax.generation import programs
from melody_jax.host import cache_folders

NAMES = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")


@pytest.fixture
def nobody(monkeypatch, tmp_path):
  """A user without cache variables, with a folder for temporary files; returns that folder."""
  for name in NAMES:
    monkeypatch.setenv(name, "")  # so that what `prepare` sets is taken back
    monkeypatch.delenv(name)
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  return tmp_path


def no_home():
  raise RuntimeError("Could not determine home directory.")


# /proc takes no files, not even from root.
UNWRITABLE = "/proc/self/home"


def test_a_home_that_cannot_be_written_gets_caches_elsewhere(nobody, monkeypatch):
  monkeypatch.setenv("HOME", UNWRITABLE)
  cache_folders.prepare()
  ours = nobody / f"melody_jax-{os.getuid()}"
  assert os.environ["NUMBA_CACHE_DIR"] == str(ours / "numba")
  assert os.environ["MPLCONFIGDIR"] == str(ours / "matplotlib")
  assert stat.S_IMODE(ours.stat().st_mode) == 0o700
  assert cache_folders.user_cache() is None
  programs.use_compilation_cache()  # goes without, as there is none


def test_no_home_at_all(nobody, monkeypatch):
  monkeypatch.setattr(pathlib.Path, "home", no_home)
  assert cache_folders.home() is None and cache_folders.user_cache() is None
  cache_folders.prepare()
  # librosa asks for the user's cache folder when it is imported.
  assert os.environ["XDG_CACHE_HOME"] == str(nobody / f"melody_jax-{os.getuid()}")


def test_fetched_files_go_to_one_folder_or_nowhere(nobody, monkeypatch, tmp_path):
  monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
  assert cache_folders.own_cache() == tmp_path / ".cache" / "melody_jax"
  monkeypatch.setattr(pathlib.Path, "home", no_home)
  with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
    cache_folders.own_cache()
  monkeypatch.setenv("XDG_CACHE_HOME", "/x")
  assert cache_folders.own_cache() == pathlib.Path("/x/melody_jax")


def test_what_works_stays_as_it_is(nobody, monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  cache_folders.prepare()
  assert not any(name in os.environ for name in NAMES)
  monkeypatch.setenv("HOME", UNWRITABLE)
  monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
  monkeypatch.setenv("MPLCONFIGDIR", UNWRITABLE)
  cache_folders.prepare()
  assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine")
  assert os.environ["MPLCONFIGDIR"].startswith(str(tmp_path))


def test_a_cache_that_others_may_write_is_not_used(nobody, monkeypatch):
  monkeypatch.setenv("HOME", UNWRITABLE)
  (nobody / f"melody_jax-{os.getuid()}").mkdir()
  (nobody / f"melody_jax-{os.getuid()}").chmod(0o777)
  monkeypatch.setattr(cache_folders, "_fallbacks", lambda: [nobody])
  cache_folders.prepare()
  assert "NUMBA_CACHE_DIR" not in os.environ


def test_a_full_disk_is_not_writable(monkeypatch, tmp_path):
  class Full:
    def __enter__(self):
      return self

    def __exit__(self, *_):
      return None

    def write(self, data):
      raise OSError(28, "No space left on device")

  assert cache_folders.is_writable(tmp_path / "not" / "there" / "yet")
  monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
  assert not cache_folders.is_writable(tmp_path)


def test_a_machine_without_any_folder_is_told_before_the_work(nobody, monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", UNWRITABLE)
  monkeypatch.setattr(cache_folders, "_fallbacks", lambda: iter(()))
  cache_folders.prepare()
  cache_folders.check()  # numba writes beside librosa here
  monkeypatch.setattr(cache_folders, "is_writable", lambda folder: str(folder) == str(tmp_path))
  with pytest.raises(UserError, match="set NUMBA_CACHE_DIR to one that can"):
    cache_folders.check()
  monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
  cache_folders.check()
