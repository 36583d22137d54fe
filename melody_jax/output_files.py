"""Output files of a command: checked before the work, written together after it.

A file that is there already is replaced only where a command wrote it, which a mark inside it
tells (`provenance.MARK`), and never where the same command reads it.
"""

from collections.abc import Iterable, Iterator
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import stat
import tempfile

from melody_jax.errors import UserError
from melody_jax.places import buckets
from melody_jax.provenance import MARK

_REASONS = {
  errno.ENOSPC: "the disk is full: free some space or write elsewhere",
  errno.EDQUOT: "the disk quota is used up: free some space or write elsewhere",
  errno.EROFS: "the file system is read-only: write elsewhere",
  errno.EACCES: "no permission to write there: write elsewhere",
  errno.EPERM: "no permission to write there: write elsewhere",
  errno.ENAMETOOLONG: "the name is too long: shorten it",
}
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
# Tags of audio files stand in the first kilobytes; those of MP3 and the comment of a zip archive at
# the end.
_MARKED_BYTES = 1 << 16
# The second stands in streams that older versions saved.
_MARKS = (MARK, '"melody_jax stream"')
_MAX_JSON_BYTES = 1 << 26  # a longer one is no report


def write_error(path: str | os.PathLike, error: OSError) -> UserError:
  """The one-line error to raise when writing `path` ended in `error`."""
  reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
  return UserError(f"cannot write {path}: {reason}")


def check_folder(folder: str | os.PathLike, size: int = 0, path: str | os.PathLike = "") -> None:
  """Checks before the work that files can be written into a directory that exists.

  Args:
    folder: Directory.
    size: Number of bytes that will be written there.
    path: What will be written, for the message; empty: the directory itself.

  Raises:
    UserError: if the directory is missing or read-only, or space is short.
  """
  folder, path = pathlib.Path(folder), path or folder
  if not folder.is_dir():
    state = "is not a directory" if folder.exists() else "does not exist"
    raise UserError(f"cannot write {path}: {folder} {state}; create it first (mkdir -p {folder})")
  # The superuser can write into a read-only directory, but its owner did not want that.
  if not folder.stat().st_mode & _WRITABLE:
    raise UserError(f"cannot write {path}: the directory {folder} is read-only; write elsewhere")
  try:
    # Only an attempt shows a read-only mount, a full quota or an access list.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".melody-"):
      free = shutil.disk_usage(folder).free
  except OSError as e:
    raise write_error(path, e) from e
  if free < size:
    raise write_error(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def check_new_folder(folder: str | os.PathLike) -> None:
  """Checks before the work that a directory can be made, or is there and can be written into.

  Raises:
    UserError: if a file is in the way, or the nearest directory above it is read-only.
  """
  if buckets.in_bucket(folder):
    return  # it has no directories to look at
  folder = pathlib.Path(folder)
  try:
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    os.stat(nearest)
  except OSError as e:
    raise write_error(folder, e) from e
  check_folder(nearest, path=folder)


def check_writable(
  path: str | os.PathLike, suffixes: tuple[str, ...] | None, size: int = 0
) -> None:
  """Checks before the work that an output file can be written after it.

  Args:
    path: File that will be written.
    suffixes: Allowed suffixes, in lower case with the dot; None: any name.
    size: Number of bytes that will be written in that directory.

  Raises:
    UserError: if the suffix is unknown, the name too long or taken by a directory, the directory is
      missing or read-only, or space is short.
  """
  path = pathlib.Path(path)
  if suffixes is not None and path.suffix.lower() not in suffixes:
    raise UserError(f"{str(path)!r} must end in one of {', '.join(suffixes)}")
  try:
    # Of all calls that ask for a name, this one alone tells a name that is too long.
    mode = os.stat(path).st_mode
  except FileNotFoundError:
    mode = 0
  except NotADirectoryError:
    mode = 0  # told below, with the name of what is no directory
  except OSError as e:
    raise write_error(path, e) from e
  if mode and stat.S_ISDIR(mode):
    raise UserError(f"{path} is a directory: name a file")
  if mode and not stat.S_ISREG(mode):
    raise UserError(f"{path} is no ordinary file: name another one")
  if mode and not mode & _WRITABLE:
    raise UserError(f"cannot write {path}: the file is read-only; name another one")
  check_folder(path.parent, size, path)


def is_ours(path: str | os.PathLike, marks: tuple[str, ...] = _MARKS) -> bool:
  """Whether a command of melody_jax wrote the file, by the mark inside it.

  A JSON file is one that names the program among its `versions`. An empty file holds nothing to
  lose and counts as ours.

  Args:
    path: File that is there.
    marks: Texts of which one stands near the beginning or the end of a file that is no JSON.
  """
  path = pathlib.Path(path)
  try:
    size = path.stat().st_size
    if not size:
      return True
    if path.suffix.lower() == ".json":
      found = json.loads(path.read_bytes()) if size < _MAX_JSON_BYTES else None
      versions = found.get("versions") if isinstance(found, dict) else None
      return isinstance(versions, dict) and "melody_jax" in versions
    with open(path, "rb") as f:
      ends = f.read(_MARKED_BYTES)
      f.seek(max(size - _MARKED_BYTES, 0))
      ends += f.read(_MARKED_BYTES)
  except (OSError, ValueError):
    return False
  return any(mark.encode() in ends for mark in marks)


def _identity(path: pathlib.Path) -> tuple[int, int] | str:
  """The same for all names of one file: links, other spellings of the way, another case."""
  try:
    found = os.stat(path)
    return found.st_dev, found.st_ino
  except OSError:  # not there yet: only the way to it can be compared
    return os.path.realpath(path)


def check_outputs(
  outputs: Iterable[str | os.PathLike],
  inputs: Iterable[str | os.PathLike] = (),
  overwrite: bool = False,
  allow: str = "move it away first",
  size: int = 0,
  marks: tuple[str, ...] = _MARKS,
) -> None:
  """Checks before the work all files that a command will write after it.

  Args:
    outputs: Every file that will be written.
    inputs: Files that the command reads; empty names are passed over.
    overwrite: Whether files that melody_jax did not write may be replaced.
    allow: How the user allows that, for the message.
    size: Number of bytes that will be written in each directory.
    marks: Texts by which files of this kind are known, see `is_ours`.

  Raises:
    UserError: if a file cannot be written, is also read, is named twice, or would replace a file
      that melody_jax did not write.
  """
  read = {_identity(pathlib.Path(p)): p for p in inputs if str(p)}
  written = set()
  # A bucket is taken as it is: what lies there cannot be told from a name, nor a permission.
  for path in (pathlib.Path(p) for p in outputs if not buckets.in_bucket(p)):
    check_writable(path, None, size)
    name = _identity(path)
    if name in read:
      raise UserError(
        f"{path} is read by this command and would be overwritten (it is the same file as"
        f" {read[name]}): write to another name"
      )
    if name in written:
      raise UserError(f"{path} would be written twice: give the outputs different names")
    written.add(name)
    if os.path.lexists(path) and not overwrite and not is_ours(path, marks):
      raise UserError(
        f"{path} is there already and was not written by melody_jax: write to another name, or"
        f" {allow}"
      )


@contextlib.contextmanager
def claim(
  paths: Iterable[str | os.PathLike], advice: str = "write to another name"
) -> Iterator[None]:
  """Keeps other commands from writing the same files until the block ends.

  The lock dies with the process, so that a killed command leaves none. Where the file system knows
  no locks, nothing is claimed.

  Args:
    paths: Files that will be written, in directories that exist.
    advice: What to do rather than to wait, for the message.

  Raises:
    UserError: if another command is writing one of them.
  """
  with contextlib.ExitStack() as stack:
    for path in paths:
      stack.enter_context(_claim_one(pathlib.Path(path), advice))
    yield


@contextlib.contextmanager
def _claim_one(path: pathlib.Path, advice: str) -> Iterator[None]:
  try:
    import fcntl
  except ImportError:  # no such locks on this system
    yield
    return
  # A name of fixed length: the file's own may have none to spare.
  name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
  lock = pathlib.Path(os.path.realpath(path.parent)) / f".melody-{name}.lock"
  while True:
    try:
      handle = open(lock, "wb")
    except OSError as e:
      raise write_error(path, e) from e
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      handle.close()
      raise UserError(
        f"{path} is being written by another command: wait for its end, or {advice}"
      ) from e
    except OSError:
      break
    # Whoever held it may have removed it between the two calls above: then it guards nothing.
    if lock.exists() and os.path.samestat(os.fstat(handle.fileno()), os.stat(lock)):
      break
    handle.close()
  try:
    yield
  finally:
    lock.unlink(missing_ok=True)
    handle.close()


def write_files(contents: dict[pathlib.Path, bytes]) -> None:
  """Writes all files, or none of them where one fails.

  Every file is written under a temporary name in its directory; renaming comes last. Buckets
  (gs://...) rename nothing: there the files are written one after another, each whole or not at
  all.

  Args:
    contents: {path: bytes}.

  Raises:
    UserError: if a directory is in the way, the disk is full, a directory is read-only, or the
      system fails otherwise.
  """
  if any(map(buckets.in_bucket, contents)):
    buckets.write_all(contents)
    return
  temporary: dict[pathlib.Path, pathlib.Path] = {}
  path = pathlib.Path()
  try:
    for i, (path, content) in enumerate(contents.items()):
      if path.is_dir():  # renaming onto it would fail when others are in place already
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
      # Hidden, and with the process id: two runs in one directory do not meet. Short, whatever the
      # length of the file's own name.
      temporary[path] = path.with_name(f".melody-{os.getpid()}-{i}.tmp{path.suffix[:8]}")
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
