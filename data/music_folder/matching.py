"""Which row of a captions file describes which file of a folder."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import unicodedata

from data.captions import distinct
from data.files import some
from data.music_folder.captions_file import CaptionsFile, Row
from melody_jax.errors import UserError


@dataclasses.dataclass
class About:
  """What the rows of a captions file say of one file.

  Attributes:
    captions: Captions of all rows, in their order.
    tags: Tags of all rows.
    facts: Title, author, licence and split, those that are given.
  """

  captions: list[str] = dataclasses.field(default_factory=list)
  tags: list[str] = dataclasses.field(default_factory=list)
  facts: dict[str, str] = dataclasses.field(default_factory=dict)
  # Fact -> the line that gave it.
  lines: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)


def same_name(path: str) -> str:
  """A path in one of its spellings: a Mac takes letters and accents apart, others do not."""
  return unicodedata.normalize("NFC", path)


def match(
  captions: CaptionsFile, where: pathlib.Path, folder: pathlib.Path, files: Sequence[str]
) -> tuple[dict[str, About], list[str]]:
  """Gives every file what the rows say of it. Several rows of one file are put together.

  Args:
    captions: Contents of the captions file.
    where: The captions file, for messages.
    folder: Folder of the music.
    files: Paths relative to the folder.

  Returns:
    ({file: what is said of it}, lines on what matched and what did not).

  Raises:
    UserError: No row names a file of the folder, or two rows contradict each other.
  """
  finder = _Finder(folder, files)
  found: dict[str, About] = {}
  lost: list[Row] = []
  for row in captions.rows:
    file = finder.find(row.file)
    if file is None:
      lost.append(row)
    else:
      _add(found.setdefault(file, About()), row, file, where)
  if len(lost) == len(captions.rows):
    # Most often a wrong base directory.
    raise UserError(
      f"captions file {where} names {len(lost)} files that are not in {folder}, the first is"
      f" {lost[0].file} ({lost[0].line}): give paths relative to the folder"
    )
  described = sum(bool(about.captions or about.tags) for about in found.values())
  notes = [f"captions file {where}: {described} of {len(files)} files have captions"]
  if lost:
    rows = some([f"{row.file} ({row.line})" for row in lost])
    notes.append(f"captions file {where}: rows that match no file ({len(lost)}): {rows}")
  return found, notes


def _add(about: About, row: Row, file: str, where: pathlib.Path) -> None:
  about.captions = distinct([*about.captions, *row.captions])
  about.tags = distinct([*about.tags, *row.tags])
  for name, value in row.facts.items():
    before = about.facts.setdefault(name, value)
    line = about.lines.setdefault(name, row.line)
    if before != value:
      raise UserError(
        f"captions file {where}: {line} and {row.line} give {file} different values of {name}:"
        f" {before!r} and {value!r}"
      )


class _Finder:
  """Finds the file that a row means, by its path and, where that is not one, by what comes close.

  Every way must lead to one file alone. Otherwise the row matches none, which is said.
  """

  def __init__(self, folder: pathlib.Path, files: Sequence[str]):
    self._folder = folder
    self._ways = [
      _unique(files, key)
      for key in (
        same_name,
        lambda file: same_name(file).casefold(),
        # As YouTube's names in MusicCaps: without folder or ending.
        lambda file: same_name(pathlib.PurePosixPath(file).name).casefold(),
        lambda file: same_name(pathlib.PurePosixPath(file).stem).casefold(),
      )
    ]
    # Another name of the same file: a link, or a path through a link.
    self._identities = {self._identity(folder / file): file for file in reversed(files)}

  @staticmethod
  def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    try:
      status = os.stat(path)
    except (OSError, ValueError):
      return None
    return status.st_dev, status.st_ino

  def find(self, name: str) -> str | None:
    """The file that `name` means, or None."""
    # Windows programs write backslashes.
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(self._folder.absolute()):
      path = path.relative_to(self._folder.absolute())
    exact, any_case, by_name, by_stem = self._ways
    wanted = same_name(path.as_posix())
    bare = wanted.casefold()
    candidates = [exact.get(wanted), any_case.get(bare)]
    if path.parts[:1] == (self._folder.absolute().name,):
      candidates.append(exact.get(same_name(pathlib.PurePosixPath(*path.parts[1:]).as_posix())))
    # A row that names a folder means that folder.
    if len(path.parts) == 1:
      candidates += [by_name.get(bare), by_stem.get(bare)]
    found = next(filter(None, candidates), None)
    identity = None if found else self._identity(self._folder / path)
    return found or (self._identities.get(identity) if identity else None)


def _unique(files: Sequence[str], key) -> dict[str, str]:
  """{key: the one file that has it}."""
  groups: dict[str, list[str]] = {}
  for file in files:
    groups.setdefault(key(file), []).append(file)
  return {name: group[0] for name, group in groups.items() if len(group) == 1}
