"""From audio files to training records: load, check, normalise and cut. Every corpus uses this.

A corpus lists its `Track`s, loads one as a mono waveform, and describes a clip of it in words.
`examples` turns the tracks into records of at most 30 s. A file that cannot be used is put aside
("quarantine") with a reason, and the build goes on.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import json
import os
import pathlib
from typing import Any, Protocol
import warnings

import librosa
import numpy as np
import pyloudnorm

from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.errors import UserError
from melody_jax.host import decoding
from melody_jax.input_pipeline.shards import Feature, json_text

# Quiet enough that most music reaches it without clipping. One level for all clips keeps loudness
# from telling which corpus a clip comes from.
LOUDNESS = -20.0  # LUFS
PEAK = 0.99  # below full scale, so that rounding to int16 never overflows
MAX_SECONDS, MIN_SECONDS = 30, 10  # the longest record; the shortest, one window of the models
# Licences that allow the sharing of derived works on easier terms than the GPL's.
FREE_LICENCES = ("CC-BY", "CC0", "public-domain", "own")
FEATURES = {"audio": Feature(SAMPLE_RATE, "int16")}  # what every built dataset stores

_SILENT_PEAK = 1e-4
# Half a second more than what is loud leaves attacks and reverberation whole.
_SILENCE, _MARGIN = 1e-3, SAMPLE_RATE // 2  # times the peak; samples


class QuarantineError(Exception):
  """Raised for a file that cannot be used. The build puts the file aside and goes on.

  Attributes:
    reason: "corrupt", "truncated", "silent", "too_short", "drm" (protected), "low_rate" or
      "garbled" (see `melody_jax.host.garbled`).
    detail: What was wrong, in words.
  """

  def __init__(self, reason: str, detail: str):
    super().__init__(f"{reason}: {detail}")
    self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Track:
  """One piece of music before decoding.

  Attributes:
    id: "package/path", unique in the corpus.
    package: Group of tracks that is split on its own: a Debian package, a style, a folder.
    split: "train", "validation", "test" or "test_other".
    title, author, licence, source: Metadata for the manifest. They never become prompt text.
    path: Audio file, or None where the corpus makes the sound itself.
    part: (begin, end) in seconds of what the track is of its sound; None is all of it.
  """

  id: str
  package: str
  split: str
  title: str = ""
  author: str = ""
  licence: str = ""
  source: str = ""
  path: pathlib.Path | None = None
  part: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Description:
  """Words for one clip.

  Attributes:
    captions: Variants of a caption. Training draws one at random.
    tags: Single words and short phrases.
    facts: Further entries of the record (key, tempo, ...), JSON-serialisable.
  """

  captions: list[str]
  tags: list[str]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Corpus(Protocol):
  """What a builder asks of a corpus.

  Attributes:
    name: Name of the dataset.
    splits: Names of its splits.
    notes: Lines for the user on what was found, and what was left out.
    origin: Where the music lies: two places do not share a dataset by accident. "" for a corpus
      that fetches or makes its own.
  """

  name: str
  notes: list[str]
  origin: str

  # Read-only, so that a corpus may declare a tuple of fixed length.
  @property
  def splits(self) -> tuple[str, ...]: ...

  def tracks(self) -> list[Track]:
    """Lists every track with its split, in an order that never changes. Decodes nothing."""

  def identity(self) -> Any:
    """What the records depend on besides the tracks; None for nothing. JSON-serialisable."""

  def load(self, track: Track) -> np.ndarray:
    """Decodes or makes the sound of a track.

    Returns:
      Mono waveform at 24 kHz, float32 [samples], not yet normalised.

    Raises:
      QuarantineError: The track cannot be used.
    """

  def describe(self, track: Track, k: int, clip: np.ndarray) -> Description:
    """Describes a clip of the track that was loaded last.

    Args:
      track: The track.
      k: Number of the clip in the track, from 0.
      clip: Normalised waveform at 24 kHz, float32 [samples].
    """


@dataclasses.dataclass
class Ledger:
  """What a build did.

  Attributes:
    manifest: One row for each used track.
    quarantined: One row for each unusable track, with the reason.
    notes: One row for each track that is used though something is odd about it.
    remarks: Lines on the corpus as a whole.
  """

  manifest: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  quarantined: list[dict[str, str]] = dataclasses.field(default_factory=list)
  notes: list[dict[str, str]] = dataclasses.field(default_factory=list)
  remarks: list[str] = dataclasses.field(default_factory=list)

  def merge(self, other: "Ledger") -> None:
    """Adds the rows of `other`."""
    self.manifest += other.manifest
    self.quarantined += other.quarantined
    self.notes += other.notes
    self.remarks += other.remarks

  def check_usable(self, name: str) -> None:
    """Raises UserError, with the reasons, if no track of the corpus `name` could be used."""
    if self.manifest:
      return
    counts = ", ".join(f"{n} {reason}" for reason, n in self.report()["quarantined"].items())
    first = min(self.quarantined, key=lambda row: row["track"], default=None)
    example = f"; the first is {first['track']}: {first['detail']}" if first else ""
    raise UserError(
      f"{name}: none of {len(self.quarantined)} files could be used ({counts}){example}"
    )

  def report(self) -> dict[str, Any]:
    """Counts and seconds per split, licence and quarantine reason; JSON-serialisable."""

    def total(key: str) -> dict[str, dict[str, float]]:
      sums: dict[str, dict[str, float]] = {}
      for row in self.manifest:
        entry = sums.setdefault(row[key], {"tracks": 0, "seconds": 0.0})
        entry["tracks"] += 1
        entry["seconds"] = round(entry["seconds"] + row["seconds"], 2)
      return dict(sorted(sums.items()))

    reasons: dict[str, int] = {}
    for row in self.quarantined:
      reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return {
      "tracks": len(self.manifest),
      "splits": total("split"),
      "licences": total("licence"),
      "quarantined": dict(sorted(reasons.items())),
      "quarantined_files": sorted(self.quarantined, key=lambda row: row["track"]),
      "notes": sorted(self.notes, key=lambda row: row["track"]),
      "remarks": self.remarks,
    }


def is_free(licence: str) -> bool:
  """Whether a licence is CC-BY, CC-BY-SA, CC0, public domain, or the user's own.

  A dual licence is written "A or B". One free alternative is enough.
  """
  return any(option.strip().startswith(FREE_LICENCES) for option in licence.split(" or "))


def select_licences(tracks: list[Track], licences: str) -> list[Track]:
  """Keeps every track ("all"), or those with a free licence ("free", see `is_free`)."""
  return tracks if licences == "all" else [t for t in tracks if is_free(t.licence)]


def write_ledger(folder: pathlib.Path, ledger: Ledger) -> None:
  """Writes manifest.jsonl (a row a track) and report.json into `folder`."""
  rows = sorted(ledger.manifest, key=lambda row: row["track"])
  for name, text in (
    ("manifest.jsonl", "".join(f"{json_text(row)}\n" for row in rows)),
    ("report.json", json_text(ledger.report(), indent=2) + "\n"),
  ):
    # Written beside its place and renamed: a reader never sees half a file.
    temporary = folder / f".{name}.tmp-{os.getpid()}"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / name)


def read_ledger(folder: pathlib.Path) -> Ledger:
  """The ledger that `write_ledger` wrote into `folder`."""
  lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").split("\n")
  report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
  rows = [json.loads(line) for line in lines if line]
  return Ledger(rows, report["quarantined_files"], report["notes"], report["remarks"])


class AudioWarning(UserWarning):
  """What the user should know about a file that is used all the same. `examples` collects them."""


def load_audio(path: pathlib.Path, min_rate: int = 0) -> np.ndarray:
  """Reads any audio file that libsndfile or ffmpeg can decode.

  Args:
    path: Audio file.
    min_rate: Lowest sample rate in Hz. A slower file is put aside as "low_rate".

  Returns:
    Mono waveform at 24 kHz without an offset, float32 [samples].

  Raises:
    QuarantineError: The file is corrupt, truncated, protected, or its sample rate is under
      `min_rate`.
    UserError: The machine is at fault: see `melody_jax.host.decoding`.
  """
  try:
    sound = decoding.read(path)
  except decoding.DamagedAudio as damaged:
    reason = "corrupt" if damaged.reason == "samples" else damaged.reason
    raise QuarantineError(reason, damaged.detail) from damaged
  audio, rate = sound.audio, sound.rate
  if rate < min_rate:
    raise QuarantineError("low_rate", f"sampled at {rate} Hz, under {min_rate} Hz")
  for note in sound.notes:
    warnings.warn(note, AudioWarning, stacklevel=2)
  if rate != SAMPLE_RATE and len(audio):
    audio = librosa.resample(audio, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
  return audio


def trimmed(audio: np.ndarray) -> np.ndarray:
  """A waveform [samples] without the silence before and after it, but for half a second of each.

  Silence is what stays 60 dB under the peak.
  """
  loud = np.flatnonzero(np.abs(audio) > _SILENCE * np.abs(audio).max(initial=0.0))
  if not len(loud):
    return audio
  return audio[max(0, loud[0] - _MARGIN) : loud[-1] + _MARGIN + 1]


def normalise(audio: np.ndarray) -> np.ndarray:
  """Scales a waveform to a loudness of -20 LUFS, or lower where its peak would exceed 0.99.

  Silence at its ends goes first, so that no record is empty and loudness is that of the music.

  Args:
    audio: Mono waveform at 24 kHz, float [samples].

  Returns:
    The scaled waveform, float32 [samples].

  Raises:
    QuarantineError: The waveform is shorter than 10 s without silent ends, or silent.
  """
  audio = trimmed(decoding.without_offset(audio))
  seconds = len(audio) / SAMPLE_RATE
  if seconds < MIN_SECONDS:
    raise QuarantineError("too_short", f"{seconds:.1f} s of sound, under {MIN_SECONDS} s")
  peak = float(np.abs(audio).max())
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    loudness = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(audio)
  if peak < _SILENT_PEAK or not np.isfinite(loudness):
    raise QuarantineError("silent", f"peak {peak:.1e}, loudness {loudness:.0f} LUFS")
  # Music with high peaks stays quieter than the rest instead of being clipped.
  gain = min(10 ** ((LOUDNESS - loudness) / 20), PEAK / peak)
  return (audio * gain).astype(np.float32)


def segments(pcm: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Cuts a track into pieces of 30 s. A rest of less than 10 s is dropped.

  Args:
    pcm: Mono samples at 24 kHz, [samples], any dtype.

  Yields:
    (k, piece): number of the piece from 0, and its samples (10 to 30 s).
  """
  length = MAX_SECONDS * SAMPLE_RATE
  # End to end and without overlap: no second is in two records, or in two splits.
  for start in range(0, len(pcm), length):
    piece = pcm[start : start + length]
    if len(piece) >= MIN_SECONDS * SAMPLE_RATE:
      yield start // length, piece


def _load(corpus: Corpus, track: Track, ledger: Ledger) -> np.ndarray:
  """Loads a track and notes what is odd about it; trouble of the machine is a UserError."""
  try:
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always", AudioWarning)
      audio = corpus.load(track)
  except MemoryError as error:
    raise UserError(f"not enough memory for {track.id}: cut it, or use fewer --jobs") from error
  except OSError as error:
    # QuarantineError is for what a file is to blame for. A system's error would befall any file.
    raise UserError(f"cannot load {track.id}: {error.strerror or error}") from error
  for warning in caught:
    if issubclass(warning.category, AudioWarning):
      ledger.notes.append({"track": track.id, "note": str(warning.message)})
  return audio


def counted(tracks: Iterable[Track], done: Callable[[], object]) -> Iterator[Track]:
  """The tracks; `done` is called when the next one is asked for."""
  for track in tracks:
    yield track
    done()


def examples(
  corpus: Corpus, tracks: Iterable[Track], ledger: Ledger
) -> Iterator[tuple[Track, dict[str, Any], np.ndarray]]:
  """Makes the records of all clips of `tracks`.

  Args:
    corpus: The corpus of the tracks.
    tracks: Tracks to decode, one at a time.
    ledger: Gets a row for each track, used or not, and what is odd about it. An unusable track is
      skipped.

  Yields:
    (track, record, samples): samples int16 [samples] at 24 kHz. The record holds id ("track#k"),
    track, package, captions, tags, licence, author, source, title, seconds, and the facts of the
    corpus.

  Raises:
    UserError: The machine is at fault, not a track: memory is short, a program is missing.
  """
  for track in tracks:
    try:
      audio = normalise(_load(corpus, track, ledger))
      if track.part:
        # After the level is set, so that all parts of a piece share it.
        begin, end = (round(seconds * SAMPLE_RATE) for seconds in track.part)
        audio = audio[begin:end]
    except QuarantineError as error:
      ledger.quarantined.append(
        {"track": track.id, "split": track.split, "reason": error.reason, "detail": error.detail}
      )
      continue
    metadata = {
      "track": track.id,
      "package": track.package,
      "licence": track.licence,
      "author": track.author,
      "source": track.source,
      "title": track.title,
    }
    pcm = np.round(audio * 32767).astype(np.int16)
    seconds = round(len(pcm) / SAMPLE_RATE, 2)
    ledger.manifest.append({**metadata, "split": track.split, "seconds": seconds})
    # The captions hear the rounded samples, the ones that training will read.
    for k, clip in segments(pcm):
      words = corpus.describe(track, k, clip.astype(np.float32) / 32767)
      record = {
        "id": f"{track.id}#{k}",
        **metadata,
        "captions": words.captions,
        "tags": words.tags,
        "seconds": round(len(clip) / SAMPLE_RATE, 2),
        **words.facts,
      }
      yield track, record, clip
