"""Sentences that a language model of the user's choice wrote from the tags of tracks.

`python -m data.captions_export` writes the tags, a line of JSON a track; any program adds
`captions` to the lines; a builder takes the file back by `--captions=FILE`. The rule-based
sentences stay where a track has no line, or one without captions.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from data.captions import distinct
from data.tracks import Corpus, Description, Track
from melody_jax.errors import UserError
from melody_jax.places.paths import argument


def read_sentences(path: pathlib.Path) -> dict[str, list[str]]:
  """Captions by track of a file in JSONL.

  Args:
    path: A line a track, an object with `track` and `captions`, a list of texts. Other entries are
      not read; without `captions`, or with an empty list, a track keeps what it has.

  Raises:
    UserError: The file cannot be read; or a line is no such object, or names a track again.
  """
  try:
    lines = path.read_text(encoding="utf-8").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--captions={path} cannot be read: {error}") from error
  found: dict[str, list[str]] = {}
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    track, captions = _row(line, f"{path}, line {number}")
    if track in found:
      raise UserError(f"{path}, line {number}: track {track} has a line already")
    found[track] = captions
  return {track: captions for track, captions in found.items() if captions}


def _row(line: str, where: str) -> tuple[str, list[str]]:
  try:
    row: Any = json.loads(line)
  except ValueError as error:
    raise UserError(f"{where}: not JSON ({error})") from error
  if not isinstance(row, dict) or not isinstance(row.get("track"), str):
    raise UserError(f"{where}: not an object with the name of a track under `track`")
  captions = row.get("captions", [])
  if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
    raise UserError(f"{where}: `captions` is not a list of texts")
  return row["track"], distinct([" ".join(text.split()) for text in captions])


def captions_argument(parser: argparse.ArgumentParser) -> None:
  """Adds `--captions`, the flag of builders that take sentences back."""
  parser.add_argument(
    "--captions",
    type=argument,
    default=None,
    help="JSONL of data.captions_export with sentences under `captions`; they replace ours",
  )


def retold(corpus: Corpus, path: pathlib.Path | None) -> Corpus:
  """The corpus with the sentences of a file, or as it is where none is given."""
  return RetoldCorpus(corpus, path) if path else corpus


class RetoldCorpus:
  """A corpus whose tracks have the captions of a file where it has any; all else is the corpus's.

  Args:
    corpus: The corpus.
    path: File of `read_sentences`.

  Raises:
    UserError: The file is not as it should be, or names no track of the corpus.
  """

  def __init__(self, corpus: Corpus, path: pathlib.Path):
    self._corpus = corpus
    self._sentences = read_sentences(path)
    known = {track.id for track in corpus.tracks()}
    foreign = sorted(self._sentences.keys() - known)
    if self._sentences and len(foreign) == len(self._sentences):
      raise UserError(f"--captions={path}: no track of {corpus.name} is named {foreign[0]!r}")
    self.name, self.splits, self.origin = corpus.name, corpus.splits, corpus.origin
    used = len(self._sentences) - len(foreign)
    note = f"{path.name}: captions of {used} of {len(known)} tracks"
    self.notes = [*corpus.notes, note + (f"; {len(foreign)} lines fit no track" if foreign else "")]

  def identity(self) -> Any:
    """The corpus's own, and a digest of the sentences: new ones are a new dataset."""
    text = json.dumps(self._sentences, sort_keys=True)
    return [self._corpus.identity(), hashlib.sha256(text.encode()).hexdigest()]

  def tracks(self) -> list[Track]:
    """The corpus's."""
    return self._corpus.tracks()

  def load(self, track: Track) -> Any:
    """The corpus's."""
    return self._corpus.load(track)

  def describe(self, track: Track, k: int, clip: Any) -> Description:
    """The corpus's tags and facts, with the sentences of the file where it has the track."""
    described = self._corpus.describe(track, k, clip)
    captions = self._sentences.get(track.id)
    return dataclasses.replace(described, captions=captions) if captions else described
