"""Outputs and bundles in buckets (gs://...), beside those on disks.

A path with :// in it names a bucket. `pathlib` would turn gs://a/b into gs:/a/b and write to a
folder of that name, so whatever may be a bucket goes through `path_of`.
"""

from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
import shutil
import tempfile
from typing import Any

from etils import epath

from melody_jax.errors import UserError


def in_bucket(path: str | os.PathLike) -> bool:
  """Whether a path names a bucket, or something in one."""
  return "://" in os.fspath(path)


def path_of(path: str | os.PathLike) -> Any:
  """A path with the methods of `pathlib.Path`: of a bucket, or of this machine's disks."""
  return epath.Path(path) if in_bucket(path) else pathlib.Path(path)


def refuse(path: str | os.PathLike, what: str) -> None:
  """Refuses a bucket where only a disk will do.

  Args:
    path: Path that was given.
    what: What is to be read or written there, in the plural.

  Raises:
    UserError: if the path names a bucket.
  """
  if in_bucket(path):
    raise UserError(
      f"{what} cannot lie in a bucket ({os.fspath(path)}): they are read at random places; copy"
      " them to a disk, or mount the bucket (launch/README.md, 'Data')"
    )


def _copy(source: Any, target: Any) -> None:
  # Not by a copy of the file systems: theirs is within one of them, and here there are two.
  with source.open("rb") as read, target.open("wb") as written:
    shutil.copyfileobj(read, written, 1 << 22)


@contextlib.contextmanager
def readable(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A file as one of this machine's disks: itself, or a copy for as long as the block lasts."""
  with writable(path) as place:
    if in_bucket(path):
      place = place / path_of(path).name
      _copy(path_of(path), place)
    yield place


@contextlib.contextmanager
def writable(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """What lies on a disk itself; for a bucket an empty folder, whose files `upload` brings away."""
  if not in_bucket(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory(prefix="melody-") as folder:
    yield pathlib.Path(folder)


def upload(source: pathlib.Path, target: str | os.PathLike, last: str = "") -> None:
  """Copies the files of a folder into a bucket; nothing where the target lies on a disk.

  Args:
    source: Folder on a disk.
    target: Folder that the files shall be in.
    last: Name of the file that is written when all others are there: it tells that they are.

  Raises:
    UserError: if the bucket cannot be written.
  """
  if not in_bucket(target):
    return
  files = sorted(filter(pathlib.Path.is_file, source.rglob("*")), key=lambda p: (p.name == last, p))
  write_all({path_of(target) / p.relative_to(source).as_posix(): p for p in files})


def remove_folder(folder: Any) -> None:
  """Removes a folder (a path of `path_of`) and all in it, on a disk or in a bucket."""
  if in_bucket(folder):
    folder.rmtree()
  else:
    shutil.rmtree(folder)


def write_all(files: Mapping[Any, bytes | pathlib.Path]) -> None:
  """Writes files in order. A bucket shows an object when it is whole, so none is seen half-written.

  Args:
    files: {path in a bucket: its contents, or the file that is copied there}.

  Raises:
    UserError: if the bucket cannot be written.
  """
  for path, content in files.items():
    target = epath.Path(path)
    try:
      target.parent.mkdir(parents=True, exist_ok=True)
      if isinstance(content, bytes):
        target.write_bytes(content)
      else:
        _copy(content, target)
    except Exception as error:  # each file system behind epath raises its own kinds
      reason = " ".join(str(error).split())[:200] or type(error).__name__
      raise UserError(f"cannot write {target}: {reason}") from error
