"""Output files of a command: checked before the work, written together after it."""

import errno
import os
import pathlib
import shutil
import stat
import tempfile

from melody_jax import buckets
from melody_jax.errors import UserError

_REASONS = {
  errno.ENOSPC: "the disk is full: free some space or write elsewhere",
  errno.EDQUOT: "the disk quota is used up: free some space or write elsewhere",
  errno.EROFS: "the file system is read-only: write elsewhere",
  errno.EACCES: "no permission to write there: write elsewhere",
  errno.EPERM: "no permission to write there: write elsewhere",
  errno.ENAMETOOLONG: "the name is too long: shorten it",
}


def write_error(path: str | os.PathLike, error: OSError) -> UserError:
  """The one-line error to raise when writing `path` ended in `error`."""
  reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
  return UserError(f"cannot write {path}: {reason}")


def check_writable(path: str | os.PathLike, suffixes: tuple[str, ...], size: int = 0) -> None:
  """Checks before the work that an output file can be written after it.

  Args:
    path: File that will be written.
    suffixes: Allowed suffixes, in lower case with the dot.
    size: Number of bytes that will be written in that directory.

  Raises:
    UserError: if the suffix is unknown, the directory is missing or read-only, or space is short.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() not in suffixes:
    raise UserError(f"{str(path)!r} must end in one of {', '.join(suffixes)}")
  if path.is_dir():
    raise UserError(f"{path} is a directory: name a file")
  folder = path.parent
  if not folder.is_dir():
    state = "is not a directory" if folder.exists() else "does not exist"
    raise UserError(f"cannot write {path}: {folder} {state}; create it first (mkdir -p {folder})")
  # The superuser can write into a read-only directory, but its owner did not want that.
  if not folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
    raise UserError(f"cannot write {path}: the directory {folder} is read-only; write elsewhere")
  try:
    # Only an attempt shows a read-only mount, a full quota or an access list.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".melody-"):
      free = shutil.disk_usage(folder).free
  except OSError as e:
    raise write_error(path, e) from e
  if free < size:
    raise write_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def write_files(contents: dict[pathlib.Path, bytes]) -> None:
  """Writes all files, or none of them where one fails.

  Every file is written under a temporary name in its directory; renaming comes last. Buckets
  (gs://...) rename nothing: there the files are written one after another, each whole or not at
  all.

  Args:
    contents: {path: bytes}.

  Raises:
    UserError: if the disk is full, a directory is read-only, or the system fails otherwise.
  """
  if any(map(buckets.in_bucket, contents)):
    buckets.write_all(contents)
    return
  temporary: dict[pathlib.Path, pathlib.Path] = {}
  path = pathlib.Path()
  try:
    for path, content in contents.items():
      # Hidden, and with the process id: two runs in one directory do not meet.
      temporary[path] = path.with_name(f".{path.stem[:100]}.{os.getpid()}.tmp{path.suffix}")
      write_bytes(temporary[path], content)
    # All contents are on the disk by now, so that renaming can hardly fail.
    for path, source in temporary.items():
      os.replace(source, path)
  except OSError as e:
    raise write_error(path, e) from e
  finally:
    for source in temporary.values():
      source.unlink(missing_ok=True)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes one file and waits for the disk, so that a full disk is noticed here."""
  with open(path, "wb") as f:
    f.write(content)
    f.flush()
    os.fsync(f.fileno())
