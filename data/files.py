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
  search = _Search(root, is_wanted, outside)
  # What is really there comes first: a link is another name for it, not the other way round.
  search.enter("", is_linked=False)
  while search.links:
    search.follow(search.links.pop(0))
  notes = [
    f"links that {text} ({len(names)}): {some(names)}"
    for names, text in (
      (search.twice, "lead to what is read already, and are not read again"),
      (search.broken, "lead nowhere"),
      (search.away, "lead out of the folder and are not followed"),
    )
    if names
  ]
  return Found(tuple(sorted(search.files)), tuple(notes))


class _Search:
  """State of `find_files`: what was found, links still to follow, and those not followed."""

  def __init__(self, root: pathlib.Path, is_wanted: Callable[[str], bool], outside: bool):
    self._root, self._is_wanted, self._outside = root, is_wanted, outside
    self._base = os.path.realpath(root)
    self._met = {_identity(os.stat(root))}
    self.files: list[str] = []
    self.links: list[str] = []
    self.twice: list[str] = []
    self.broken: list[str] = []
    self.away: list[str] = []

  def enter(self, folder: str, is_linked: bool) -> None:
    """Takes what really lies in a folder and below it; `is_linked` if a link led there."""
    pending = [folder]
    while pending:
      for where, entry in _entries(self._root, pending.pop(0)):
        if entry.is_symlink():
          self.links.append(where)
        elif entry.is_dir() or (entry.is_file() and self._is_wanted(where)):
          identity = _identity(entry.stat())
          # A link to a folder around the music leads back to the music.
          if is_linked and identity in self._met:
            self.twice.append(where)
            continue
          self._met.add(identity)
          (pending if entry.is_dir() else self.files).append(where)

  def follow(self, where: str) -> None:
    """Takes what a link leads to, or notes why not."""
    is_folder, target = _target(self._root / where)
    if target is None:
      if self._is_wanted(where) or not pathlib.PurePosixPath(where).suffix:
        self.broken.append(where)
    elif not is_folder and not self._is_wanted(where):
      return
    elif not self._outside and not self._is_inside(where):
      self.away.append(where)
    elif target in self._met:
      self.twice.append(where)
    else:
      self._met.add(target)
      if is_folder:
        self.enter(where, is_linked=True)
      else:
        self.files.append(where)

  def _is_inside(self, where: str) -> bool:
    return os.path.realpath(self._root / where).startswith(self._base + os.sep)


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
