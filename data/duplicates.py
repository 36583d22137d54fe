"""Near-duplicates in a corpus: one recording under two names, louder, cut, or encoded again.

A track is hashed frame by frame: 32 bits say where the spectrum's slope rises (Haitsma and Kalker,
"A highly robust audio fingerprinting system", 2002). Tracks that share hashes at one distance in
time are compared there bit by bit. Every hash is looked up once, so that work grows with the music,
not with its square. Covers, other keys and other tempi are not found.
"""

import argparse
from collections import Counter
import dataclasses
from typing import Any

import librosa
import numpy as np

from data.splits import TEST, TEST_OTHER, TRAIN, VALIDATION
from data.tracks import Corpus, Description, QuarantineError, Track, trimmed
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.progress import bar

_N_FFT, _HOP = 8192, 2048  # a cut that is off by half a hop moves a window by an eighth
_BANDS, _LOW, _HIGH = 33, 200.0, 4000.0  # Hz; all codecs keep these
_COMMON = 20  # occurrences; a hash of silence or of a held tone tells nothing
_VOTES = 3  # equal hashes at one distance that are worth a comparison
_OVERLAP = round(10 * SAMPLE_RATE / _HOP)  # frames; less than a record in common is none
_BIT_ERRORS = 0.3  # share; unrelated music has half, with little spread over 100 frames of 32 bits
# Most held back first: a duplicate of what is tested on must not be trained on.
_STRICTEST = (TEST_OTHER, TEST, VALIDATION, TRAIN)


def frame_hashes(audio: np.ndarray) -> np.ndarray:
  """Hashes of a waveform at 24 kHz: uint32 [frames], about 12 a second."""
  if len(audio) < 2 * _N_FFT:
    return np.zeros(0, np.uint32)
  power = np.abs(librosa.stft(audio, n_fft=_N_FFT, hop_length=_HOP, center=False)) ** 2
  edges = np.geomspace(_LOW, _HIGH, _BANDS + 1) * _N_FFT / SAMPLE_RATE
  bands = np.add.reduceat(power[: round(edges[-1])], edges[:-1].round().astype(int), axis=0)
  slope = bands[1:] - bands[:-1]
  bits = slope[:, 1:] > slope[:, :-1]  # [32, frames - 1]
  return (bits.T.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=1).astype(np.uint32)


def duplicate_groups(hashes: list[np.ndarray]) -> list[list[int]]:
  """Groups of two or more tracks that hold 10 s or more of the same recording.

  Args:
    hashes: `frame_hashes` of each track, each uint32 [frames].

  Returns:
    Numbers of tracks, sorted, each in one group at most: what is alike by a third is alike.
  """
  leader = list(range(len(hashes)))

  def find(i: int) -> int:
    while leader[i] != i:
      i = leader[i]
    return i

  for one, other, shift in _candidates(hashes):
    if find(one) != find(other) and _is_same(hashes[one], hashes[other], shift):
      leader[max(find(one), find(other))] = min(find(one), find(other))
  groups: dict[int, list[int]] = {}
  for i in range(len(hashes)):
    groups.setdefault(find(i), []).append(i)
  return [group for group in groups.values() if len(group) > 1]


def _candidates(hashes: list[np.ndarray]) -> list[tuple[int, int, int]]:
  """(track, later track, frames by which the first is ahead) that share some hashes."""
  if not hashes:
    return []
  everything = np.concatenate(hashes)
  tracks = np.repeat(np.arange(len(hashes)), [len(h) for h in hashes])
  frames = np.concatenate([np.arange(len(h)) for h in hashes])
  order = np.argsort(everything, kind="stable")
  starts = np.flatnonzero(np.diff(everything[order], prepend=everything[order][:1] - 1))
  votes: Counter[tuple[int, int, int]] = Counter()
  for begin, end in zip(starts, [*starts[1:], len(order)], strict=True):
    if 2 <= end - begin <= _COMMON:
      found = order[begin:end]
      for i, a in enumerate(found):
        for b in found[i + 1 :]:
          if tracks[a] != tracks[b]:
            votes[int(tracks[a]), int(tracks[b]), int(frames[a] - frames[b])] += 1
  return sorted(place for place, count in votes.items() if count >= _VOTES)


def _is_same(one: np.ndarray, other: np.ndarray, shift: int) -> bool:
  first, second = one[max(shift, 0) :], other[max(-shift, 0) :]
  length = min(len(first), len(second))
  if length < _OVERLAP:
    return False
  wrong = np.bitwise_count(first[:length] ^ second[:length])
  return float(wrong.mean()) / 32 < _BIT_ERRORS


def duplicates_argument(parser: argparse.ArgumentParser) -> None:
  """Adds `--duplicates`."""
  parser.add_argument(
    "--duplicates",
    choices=("ignore", "together", "drop"),
    default="ignore",
    help="near-duplicates (one recording under two names): not looked for; put into one split;"
    " or all but one of them dropped. Looking decodes everything once more",
  )


def without_duplicates(corpus: Corpus, what: str) -> Corpus:
  """The corpus with its near-duplicates dealt with as `--duplicates` says."""
  return corpus if what == "ignore" else DistinctCorpus(corpus, what == "drop")


class DistinctCorpus:
  """A corpus whose near-duplicates share a split, the one that is held back most.

  Args:
    corpus: The corpus. All its tracks are decoded; parts of a piece are left as they are.
    drop: Whether only the first of each group stays.

  Attributes:
    notes: Those of the corpus, and a line for each track that was moved or dropped.
  """

  def __init__(self, corpus: Corpus, drop: bool):
    self._corpus, self._drop = corpus, drop
    self.name, self.splits, self.origin = corpus.name, corpus.splits, corpus.origin
    self.notes = list(corpus.notes)
    self._tracks = self._dealt_with(corpus.tracks())

  def _dealt_with(self, tracks: list[Track]) -> list[Track]:
    hashes = []
    with bar(len(tracks), f"{self.name}: near-duplicates", "track") as progress:
      for track in tracks:
        hashes.append(self._hashes(track))
        progress.update()
    kept: list[Track | None] = list(tracks)
    for group in duplicate_groups(hashes):
      first = tracks[group[0]]
      split = min((tracks[i].split for i in group), key=_STRICTEST.index)
      for i in group:
        track = tracks[i]
        if self._drop and i != group[0]:
          kept[i] = None
          self.notes.append(f"{track.id}: dropped, a near-duplicate of {first.id}")
          continue
        kept[i] = dataclasses.replace(track, split=split)
        if split != track.split:
          self.notes.append(f"{track.id}: moved from {track.split} to {split}, near-duplicates")
    return [track for track in kept if track is not None]

  def _hashes(self, track: Track) -> np.ndarray:
    if track.part:
      return frame_hashes(np.zeros(0, np.float32))
    try:
      return frame_hashes(trimmed(self._corpus.load(track)))
    except QuarantineError:
      return frame_hashes(np.zeros(0, np.float32))  # the build puts it aside, with the reason

  def identity(self) -> Any:
    """The corpus's own: what was moved or dropped shows in the tracks."""
    return self._corpus.identity()

  def tracks(self) -> list[Track]:
    """The corpus's, but for what was moved or dropped."""
    return list(self._tracks)

  def load(self, track: Track) -> np.ndarray:
    """The corpus's waveform, float32 [samples]."""
    return self._corpus.load(track)

  def describe(self, track: Track, k: int, clip: np.ndarray) -> Description:
    """The corpus's words for a clip, float [samples]."""
    return self._corpus.describe(track, k, clip)
