import errno
import os
import shutil

import pytest

from melody_jax import output_files
from melody_jax.errors import UserError


def test_all_files_are_written(tmp_path):
  contents = {tmp_path / "a.wav": b"1", tmp_path / "a.png": b"22"}
  output_files.write_files(contents)
  output_files.write_files(contents)  # over what is there
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.wav": b"1", "a.png": b"22"}


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
  (tmp_path / "a.wav").write_bytes(b"old")
  write = output_files.write_bytes

  def full(path, content):
    if path.suffix == ".png":
      write(path, content[:1])
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(path, content)

  monkeypatch.setattr(output_files, "write_bytes", full)
  with pytest.raises(UserError, match=r"cannot write .*a\.png: the disk is full"):
    output_files.write_files({tmp_path / "a.wav": b"new", tmp_path / "a.png": b"new"})
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.wav": b"old"}


def test_paths_that_could_not_be_written_are_refused_early(tmp_path, monkeypatch):
  def check(path, size=0):
    output_files.check_writable(path, (".wav", ".ogg"), size)

  check(tmp_path / "x.wav")
  check(tmp_path / "x.OGG")
  assert not list(tmp_path.iterdir())
  with pytest.raises(UserError, match=r"must end in one of \.wav, \.ogg"):
    check(tmp_path / "x.aiff")
  with pytest.raises(UserError, match="does not exist; create it"):
    check(tmp_path / "none" / "x.wav")
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="is not a directory"):
    check(tmp_path / "file" / "x.wav")
  (tmp_path / "d.wav").mkdir()
  with pytest.raises(UserError, match="is a directory: name a file"):
    check(tmp_path / "d.wav")
  (tmp_path / "d.wav").chmod(0o555)
  with pytest.raises(UserError, match="read-only"):
    check(tmp_path / "d.wav" / "x.wav")
  usage = shutil.disk_usage(tmp_path)._replace(free=10)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
  with pytest.raises(UserError, match="disk is full"):
    check(tmp_path / "x.wav", size=11)
