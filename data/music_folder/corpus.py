"""A user's own folder of audio. Captions may come from a CSV, JSONL or JSON file.

The captions file lies in the folder (captions.csv, .tsv, .jsonl, .json), or a flag names it. Each
row has `file`, the path relative to the folder. All other fields may be left out:

    caption    one text, or several separated by "|"; in JSON it may be a list
    tags       separated by commas, or a list
    title, author, licence
    split      takes the place of the automatic split

`captions_file.py` lists further names of these columns; `matching.py` says which file a row means.
"""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from data import descriptors
from data.captions import distinct, tempo_word, tidy
from data.files import find_files
from data.music_folder.captions_file import SPLITS, read_captions
from data.music_folder.matching import About, match
from data.music_folder.shares import shares_of
from data.tracks import Description, Track, load_audio
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.errors import UserError

# Whatever ffmpeg commonly decodes. A list, since opening every file of a folder would be slow.
SUFFIXES = frozenset((
  ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
  ".w64", ".m4a", ".m4b", ".m4p", ".mp4", ".aac", ".wma", ".ac3", ".ape", ".wv", ".mka", ".mkv",
  ".webm", ".mp2", ".amr", ".mpc", ".tta", ".3gp", ".mov",
))  # fmt: skip
_NOTHING = About()
# Names of captions files, in any case; the second is that of Hugging Face's folders of audio.
_CAPTIONS = re.compile(r"captions\.(csv|tsv|txt|jsonl|ndjson|json)|metadata\.(csv|jsonl)")


class FolderCorpus:
  """Corpus of all audio files below a folder.

  Args:
    folder: Directory, searched with all its sub-directories. Links are followed, and no file is
      taken twice. Hidden files and files without a suffix of audio are left out.
    captions: Captions file. None looks for captions.csv, .tsv, .jsonl or .json in the folder.
    name: Name of the dataset.
    licence: Licence of the files for which the captions file gives none.

  Attributes:
    notes: Lines on what was found: how many files have captions, what was not understood.

  Raises:
    UserError: The folder does not exist or has no audio, or the captions file is wrong.

  Attributes:
    origin: The folder, absolute: two folders do not share a dataset by accident.
  """

  splits = SPLITS

  def __init__(
    self, folder: pathlib.Path, captions: pathlib.Path | None = None, name: str = "music_folder",
    licence: str = "own",
  ):  # fmt: skip
    self.name = name
    self._folder = pathlib.Path(folder)
    self.origin = str(self._folder.resolve())
    self._licence = licence
    if not self._folder.is_dir():
      raise UserError(f"music folder {folder} does not exist: give an existing directory")
    found = find_files(
      self._folder, lambda where: pathlib.PurePosixPath(where).suffix.lower() in SUFFIXES, True
    )
    self._files, self.notes = found.files, list(found.notes)
    if not self._files:
      raise UserError(
        f"music folder {folder} holds no audio file: looked for {' '.join(sorted(SUFFIXES))}"
      )
    if captions is None:
      captions = self._find_captions()
    self._about: dict[str, About] = {}
    if captions:
      content = read_captions(pathlib.Path(captions))
      self._about, matched = match(content, pathlib.Path(captions), self._folder, self._files)
      self.notes += [*content.notes, *matched]

  def _find_captions(self) -> pathlib.Path | None:
    """The captions file in the folder; None if there is none."""
    here = sorted(self._folder.iterdir())
    present = [path for path in here if _CAPTIONS.fullmatch(path.name.lower())]
    if len(present) > 1:
      self.notes.append(f"of {len(present)} captions files only {present[0]} is read")
    if not present:
      self.notes.append(f"no captions file in {self._folder}: captions say what can be measured")
    return present[0] if present else None

  def identity(self) -> Any:
    """What the records depend on besides the tracks: the rows of the captions file."""
    return {file: dataclasses.asdict(about) for file, about in self._about.items()}

  def tracks(self) -> list[Track]:
    """Lists every file, in a folder of one or two songs the parts of each: see `shares`.

    A split in the captions file takes the place of the automatic one.
    """
    facts = {file: about.facts for file, about in self._about.items()}
    given = {file: row["split"] for file, row in facts.items() if row.get("split")}
    shares = shares_of(self._folder, self._files, given)
    tracks = []
    for file in self._files:
      row = facts.get(file, {})
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
    about = self._about.get(track.path.relative_to(self._folder).as_posix(), _NOTHING)
    captions, tags = list(about.captions), list(about.tags)
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
