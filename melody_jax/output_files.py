"""Files that a command leaves behind: checked before the work, written together after it."""

import errno
import os
import pathlib
import shutil
import stat
import tempfile

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
  """The one-line error for `error`, met while writing `path`."""
  reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
  return UserError(f"cannot write {path}: {reason}")


def check_writable(path: str | os.PathLike, suffixes: tuple[str, ...], size: int = 0) -> None:
  """Refuses, before any work is done, an output path that could not be written at its end.

  Args:
    path: the file to be written later.
    suffixes: allowed suffixes, lower case with the dot.
    size: bytes that will be written beside and at `path`.

  Raises:
    UserError: for an unknown suffix, a missing or read-only directory, or too little space.
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
  # The superuser may write where nobody should: a directory without a write bit says read-only.
  if not folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
    raise UserError(f"cannot write {path}: the directory {folder} is read-only; write elsewhere")
  try:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".melody-"):
      free = shutil.disk_usage(folder).free
  except OSError as e:
    raise write_error(path, e) from e
  if free < size:
    raise write_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def write_files(contents: dict[pathlib.Path, bytes]) -> None:
  """Writes all of `contents` (path -> bytes) or, where one fails, none.

  Every file goes to a temporary name in its directory first; renaming comes last.

  Raises:
    UserError: for a full disk, a read-only directory and other failures of the system.
  """
  temporary: dict[pathlib.Path, pathlib.Path] = {}
  path = pathlib.Path()
  try:
    for path, content in contents.items():
      temporary[path] = path.with_name(f".{path.stem[:100]}.{os.getpid()}.tmp{path.suffix}")
      write_bytes(temporary[path], content)
    for path, source in temporary.items():
      os.replace(source, path)
  except OSError as e:
    raise write_error(path, e) from e
  finally:
    for source in temporary.values():
      source.unlink(missing_ok=True)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes one file and waits for the disk, so that a full one is noticed now."""
  with open(path, "wb") as f:
    f.write(content)
    f.flush()
    os.fsync(f.fileno())
