"""What of a folder's songs goes to which split: whole songs, or parts of one or two songs.

Whole songs are the rule: a model must not be asked about a song that it has heard. One or two songs
leave nothing to hold back, so each is cut by time there, and what is held back is its end.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

import numpy as np

from data.music_folder.matching import same_name
from data.splits import TEST, TRAIN, VALIDATION, assign_splits
from data.tracks import MIN_SECONDS, QuarantineError, load_audio, normalise
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.progress import print_progress

# Up to so many songs every file is tried before the splits are given: one that cannot be used may
# be the only one of its split. In a larger folder the others of the split remain.
SMALL = 20
_WHOLE_FROM = 3  # songs; fewer are cut by time
_HELD_BACK = 0.15  # share of a song that validation and test get, each; at least one window


@dataclasses.dataclass(frozen=True)
class Share:
  """What a split gets of a file.

  Attributes:
    split: "train", "validation" or "test".
    part: (begin, end) in seconds; None is the whole file.
  """

  split: str
  part: tuple[float, float] | None = None


def shares_of(
  folder: pathlib.Path, files: Sequence[str], given: Mapping[str, str]
) -> dict[str, list[Share]]:
  """Gives every file of a folder to splits.

  Takes of one name ("a.wav", "a.flac") are one song and share a split. Where splits are given by
  the user for some files, those stand; the others follow the rule.

  Args:
    folder: Directory of the files.
    files: Paths relative to it.
    given: {file: split} from the captions file.

  Returns:
    {file: its shares}; a file that cannot be used has one, so that the build names it.
  """
  songs = {
    file: same_name(str(pathlib.PurePosixPath(file).with_suffix(""))).lower() for file in files
  }
  seconds: dict[str, float] = {}
  usable = list(files)
  if len(set(songs.values())) <= SMALL:
    seconds = {file: _usable_seconds(folder / file) for file in files}
    # Where none can be used, all count, and the build names each.
    usable = [file for file in files if seconds[file]] or usable
  names = sorted({songs[file] for file in usable})
  if not given and 0 < len(names) < _WHOLE_FROM:
    shares = _by_time({file: seconds[file] for file in usable}, songs)
    _tell(folder, shares, len(names))
    return {file: shares.get(file) or [Share(TRAIN)] for file in files}
  # A small folder still gets one song to validate on.
  split_of = assign_splits(names, validation=max(0.05, 1 / max(len(names), 1)))
  return {file: [Share(given.get(file) or split_of.get(songs[file], TRAIN))] for file in files}


def parts(seconds: float) -> list[Share]:
  """Cuts one song by time: training first, then validation, then test, with no overlap.

  Args:
    seconds: Length of the song.

  Returns:
    Its shares. Each holds at least one window of the models, 10 s: a song of less than 30 s has no
    test part, one of less than 20 s is training alone.
  """
  held = max(float(MIN_SECONDS), _HELD_BACK * seconds)
  if seconds >= MIN_SECONDS + 2 * held:
    first, second = seconds - 2 * held, seconds - held
    return [
      Share(TRAIN, (0.0, first)),
      Share(VALIDATION, (first, second)),
      Share(TEST, (second, seconds)),
    ]
  if seconds >= MIN_SECONDS + held:
    return [Share(TRAIN, (0.0, seconds - held)), Share(VALIDATION, (seconds - held, seconds))]
  return [Share(TRAIN)]


def _by_time(seconds: Mapping[str, float], songs: Mapping[str, str]) -> dict[str, list[Share]]:
  """Shares of the files of one or two songs; takes of one song are cut at the same seconds."""
  shares: dict[str, list[Share]] = {}
  for song in dict.fromkeys(songs[file] for file in seconds):
    takes = [file for file in seconds if songs[file] == song]
    cut = parts(min(seconds[take] for take in takes))
    for take in takes:
      last = cut[-1]
      if last.part:
        last = Share(last.split, (last.part[0], seconds[take]))
      shares[take] = [*cut[:-1], last]
  whole = [file for file, each in shares.items() if len(each) == 1]
  if len(whole) == len(shares) and len({songs[file] for file in whole}) > 1:
    # Two songs too short to be cut: the second one validates.
    held = songs[whole[-1]]
    shares |= {file: [Share(VALIDATION)] for file in whole if songs[file] == held}
  return shares


def _tell(folder: pathlib.Path, shares: dict[str, list[Share]], n_songs: int) -> None:
  """Says what the split of so small a folder means."""
  splits = {share.split for each in shares.values() for share in each}
  few = f"{folder}: {n_songs} song{'s' * (n_songs > 1)} only"
  if any(len(each) > 1 for each in shares.values()):
    print_progress(
      f"{few}: split by time, ends of songs are held back ({', '.join(sorted(splits - {TRAIN}))});"
      " figures on them say little about other music"
    )
  elif VALIDATION in splits:
    print_progress(f"{few}, too short to be split by time: the second one is to validate on")
  else:
    print_progress(
      f"{few}, of less than {2 * MIN_SECONDS} s: all of it trains, nothing is held back"
    )


def _usable_seconds(path: pathlib.Path) -> float:
  """Length of a file in seconds; 0 where the build will put it aside."""
  try:
    audio: np.ndarray = normalise(load_audio(path))
  except QuarantineError:
    return 0.0
  return len(audio) / SAMPLE_RATE
