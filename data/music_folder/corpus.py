"""A user's own folder of audio. Captions may come from a CSV or JSONL file.

The captions file lies in the folder (captions.csv or captions.jsonl), or a flag names it. Each row
has `file`, the path relative to the folder. All other fields may be left out:

    caption    one text, or several separated by "|"; in JSONL `captions` may be a list
    tags       separated by commas, or a list
    title, author, licence
    split      takes the place of the automatic split
"""

import csv
import json
import pathlib
from typing import Any

import numpy as np

from data import descriptors
from data.captions import distinct, tempo_word, tidy
from data.music_folder.shares import shares_of
from data.splits import TEST, TRAIN, VALIDATION
from data.tracks import SAMPLE_RATE, Description, Track, load_audio
from melody_jax.errors import UserError

# Whatever ffmpeg commonly decodes. A list, since opening every file of a folder would be slow.
SUFFIXES = frozenset((
  ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
  ".w64", ".m4a", ".m4b", ".m4p", ".mp4", ".aac", ".wma", ".ac3", ".ape", ".wv", ".mka", ".mkv",
  ".webm", ".mp2", ".amr", ".mpc", ".tta", ".3gp", ".mov",
))  # fmt: skip
_SPLITS = (TRAIN, VALIDATION, TEST)


def read_captions(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Reads a captions file.

  Args:
    path: A file as the module describes it: JSONL if it ends in .jsonl or .json, otherwise CSV.

  Returns:
    {file: {"captions": list, "tags": list, "title", "author", "licence", "split": texts}}.

  Raises:
    UserError: The file cannot be read or parsed, a row has no `file`, or a split is unknown.
  """
  try:
    # utf-8-sig: spreadsheets put a byte order mark in front, which would spoil the first column.
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"captions file {path} cannot be read: {error}") from error
  try:
    if path.suffix.lower() in (".jsonl", ".json"):
      rows = [(i, json.loads(line)) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:  # rows are counted from 2, as an editor shows them: line 1 names the columns
      rows = list(enumerate(csv.DictReader(text.splitlines()), 2))
  except (json.JSONDecodeError, csv.Error) as error:
    raise UserError(f"captions file {path} is malformed: {error}") from error
  found = {}
  for number, row in rows:
    if not isinstance(row, dict) or not row.get("file"):
      raise UserError(
        f"captions file {path}, line {number}: no 'file'; give a path relative to the folder"
      )
    if row.get("split") and row["split"] not in _SPLITS:
      raise UserError(
        f"captions file {path}, line {number}: split {row['split']!r} is not one of"
        f" {', '.join(_SPLITS)}"
      )
    # Windows programs write backslashes.
    file = pathlib.PurePosixPath(str(row["file"]).replace("\\", "/")).as_posix()
    texts = _texts(row.get("captions"), "|") + _texts(row.get("caption"), "|")
    fields = {key: str(row.get(key) or "") for key in ("title", "author", "licence", "split")}
    found[file] = {
      **fields,
      "captions": distinct(texts),
      "tags": distinct(_texts(row.get("tags"), ",")),
    }
  return found


def _texts(value: Any, separator: str) -> list[str]:
  parts = value if isinstance(value, list) else str(value or "").split(separator)
  return [str(part).strip() for part in parts if str(part).strip()]


class FolderCorpus:
  """Corpus of all audio files below a folder.

  Args:
    folder: Directory, searched with all its sub-directories. Hidden files, links and files without
      a suffix of audio are left out.
    captions: Captions file. None looks for captions.csv or captions.jsonl in the folder.
    name: Name of the dataset.
    licence: Licence of the files for which the captions file gives none.

  Raises:
    UserError: The folder does not exist or has no audio, or the captions file is wrong.
  """

  splits = _SPLITS

  def __init__(
    self, folder: pathlib.Path, captions: pathlib.Path | None = None, name: str = "music_folder",
    licence: str = "own",
  ):  # fmt: skip
    self.name = name
    self._folder = pathlib.Path(folder)
    self._licence = licence
    if not self._folder.is_dir():
      raise UserError(f"music folder {folder} does not exist: give an existing directory")
    if captions is None:
      present = (self._folder / f"captions{suffix}" for suffix in (".csv", ".jsonl"))
      captions = next((path for path in present if path.exists()), None)
    self._rows = read_captions(pathlib.Path(captions)) if captions else {}
    self._files = sorted(
      path.relative_to(self._folder).as_posix()
      for path in self._folder.rglob("*")
      if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink()
      and not any(part.startswith(".") for part in path.relative_to(self._folder).parts)
    )  # fmt: skip
    if not self._files:
      raise UserError(
        f"music folder {folder} holds no audio file: looked for {' '.join(sorted(SUFFIXES))}"
      )
    # Most often a wrong base directory. A caption must never be lost without a word.
    unknown = sorted(set(self._rows) - set(self._files))
    if unknown:
      raise UserError(
        f"captions name {len(unknown)} files that are not in {folder}, the first is {unknown[0]}"
      )

  def tracks(self) -> list[Track]:
    """Lists every file, in a folder of one or two songs the parts of each: see `shares`."""
    given = {file: row["split"] for file, row in self._rows.items() if row.get("split")}
    shares = shares_of(self._folder, self._files, given)
    tracks = []
    for file in self._files:
      row = self._rows.get(file, {})
      for share in shares[file]:
        # Two records of one name must not be: a part bears its split's.
        of_part = f"@{share.split}" if share.part else ""
        tracks.append(
          Track(
            id=f"{self.name}/{file}{of_part}", package=self.name, split=share.split,
            title=row.get("title") or pathlib.PurePosixPath(file).stem,
            author=row.get("author", ""), licence=row.get("licence") or self._licence,
            source="user's folder", path=self._folder / file, part=share.part,
          )
        )  # fmt: skip
    return tracks

  def load(self, track: Track) -> np.ndarray:
    """Decodes a file of any sample rate and number of channels.

    Returns:
      Mono waveform at 24 kHz, float32 [samples].

    Raises:
      QuarantineError: The file cannot be used.
    """
    assert track.path is not None  # a track of this corpus is a file
    return load_audio(track.path)

  def describe(self, track: Track, k: int, clip: np.ndarray) -> Description:
    """Gives the user's captions and tags; if there are none, words for what can be measured.

    Args:
      track: The track.
      k: Not used: the user's captions describe the whole file.
      clip: Normalised waveform at 24 kHz, float32 [samples].
    """
    del k
    assert track.path is not None  # a track of this corpus is a file
    row = self._rows.get(track.path.relative_to(self._folder).as_posix(), {})
    captions, tags = list(row.get("captions", [])), list(row.get("tags", []))
    if tags:
      captions.append(", ".join(tags))
    if not captions:
      heard = descriptors.words(descriptors.measure(clip, SAMPLE_RATE))
      pace = tempo_word(heard.tempo) if heard.tempo else ""
      tags = distinct([heard.energy, heard.colour, pace, f"{heard.mode} key" if heard.mode else ""])
      feel = " ".join(word for word in (heard.energy, heard.colour, pace) if word)
      rest = f", around {heard.tempo} bpm" if heard.tempo else ""
      captions = [tidy(f"{feel} music {heard.percussion or heard.pulse}{rest}", full_stop=True)]
    return Description(captions, tags)
