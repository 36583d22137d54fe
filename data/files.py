"""Finds the files of a folder, links included, each of them once."""

from collections.abc import Callable, Iterator
import dataclasses
import os
import pathlib
import stat

from melody_jax.errors import UserError

_NAMED = 5  # files that a line names; it counts the others


@dataclasses.dataclass(frozen=True)
class Found:
  """Files of a folder.

  Attributes:
    files: Sorted paths relative to the folder, with slashes.
    notes: Lines about links that were not followed, and why.
  """

  files: tuple[str, ...]
  notes: tuple[str, ...]


def some(names: list[str]) -> str:
  """The first few of many names, and how many more there are."""
  more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
  return ", ".join(names[:_NAMED]) + more


def find_files(root: pathlib.Path, is_wanted: Callable[[str], bool], outside: bool) -> Found:
  """Searches a folder and all folders in it. Hidden ones (".name") are left out.

  Links are followed, to files and to folders. A file or folder that was met already is not taken
  again, so that neither a loop nor a second name brings music in twice.

  Args:
    root: Folder.
    is_wanted: Whether a path relative to the folder is to be taken. Links that are not wanted are
      not worth a note either.
    outside: Whether links may lead out of the folder.

  Raises:
    UserError: A folder cannot be listed.
  """
  base = os.path.realpath(root)
  folders = {_identity(os.stat(base))}
  seen: set[tuple[int, int]] = set()
  files: list[str] = []
  twice: list[str] = []
  broken: list[str] = []
  away: list[str] = []
  # What is really there comes first: a link is another name for it, not the other way round.
  links: list[str] = []
  pending = [""]
  while pending or links:
    if not pending:
      where = links.pop(0)
      is_folder, target = _target(root / where)
      if target is None:
        broken += [where] if is_wanted(where) or not pathlib.PurePosixPath(where).suffix else []
      elif not is_folder and not is_wanted(where):
        pass
      elif not outside and not os.path.realpath(root / where).startswith(base + os.sep):
        away.append(where)
      elif target in folders | seen:
        twice.append(where)
      elif is_folder:
        folders.add(target)
        pending.append(where)
      else:
        seen.add(target)
        files.append(where)
      continue
    for where, entry in _entries(root, pending.pop(0)):
      if entry.is_symlink():
        links.append(where)
      elif entry.is_dir():
        folders.add(_identity(entry.stat()))
        pending.append(where)
      elif entry.is_file() and is_wanted(where):
        seen.add(_identity(entry.stat()))
        files.append(where)
  notes = [
    f"links that {text} ({len(names)}): {some(names)}"
    for names, text in (
      (twice, "lead to what is read already, and are not read again"),
      (broken, "lead nowhere"),
      (away, "lead out of the folder and are not followed"),
    )
    if names
  ]
  return Found(tuple(sorted(files)), tuple(notes))


def _identity(status: os.stat_result) -> tuple[int, int]:
  return status.st_dev, status.st_ino


def _target(link: pathlib.Path) -> tuple[bool, tuple[int, int] | None]:
  """(whether a link leads to a folder, what it leads to); None if it leads nowhere."""
  try:
    status = os.stat(link)
  except OSError:  # also a link to itself
    return False, None
  is_folder = stat.S_ISDIR(status.st_mode)
  return is_folder, _identity(status) if is_folder or stat.S_ISREG(status.st_mode) else None


def _entries(root: pathlib.Path, folder: str) -> Iterator[tuple[str, os.DirEntry]]:
  """Yields (path relative to the root, entry) of one folder, in order, without hidden ones."""
  try:
    entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
  except OSError as error:
    # Its music would be missing without a word.
    raise UserError(f"cannot list {root / folder}: {error.strerror}") from error
  for entry in entries:
    if not entry.name.startswith("."):
      yield f"{folder}/{entry.name}" if folder else entry.name, entry
