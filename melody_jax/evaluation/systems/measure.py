"""What is measured of one clip alone, kept on disk, so that a run that was cut off goes on."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib
import io
import pathlib
import time
from typing import Any

import numpy as np

from melody_jax import audio_io
from melody_jax.errors import UserError
from melody_jax.evaluation import basic_pitch
from melody_jax.evaluation.embeddings.adapter import AudioEmbedding, digest_of
from melody_jax.evaluation.musicnn.tagger import MUSICNN_SAMPLE_RATE, PATCH_FRAMES, Tagger
from melody_jax.metrics.audio_checks import check_audio
from melody_jax.metrics.chroma import SAMPLE_RATE as CHROMA_RATE
from melody_jax.metrics.chroma import chroma
from melody_jax.metrics.notes import NoteUse, note_use
from melody_jax.metrics.rhythm import SAMPLE_RATE as RHYTHM_RATE
from melody_jax.metrics.rhythm import beat_strength, onset_rate
from melody_jax.output_files import write_error, write_files
from melody_jax.progress import Progress

SHORTEST_SECONDS = 0.5
_VERSION = 2  # of what is kept: raised when a measure changes
_PROGRESS_SECONDS = 5.0


class UnusableClip(UserError):
  """Raised for a file that cannot be measured; the others can."""


class _Sound:
  """One clip at any sample rate.

  Args:
    audio_S: The clip [samples].
    rate: Its sample rate in Hz.
  """

  def __init__(self, audio_S: np.ndarray, rate: int):
    self.audio_S, self.rate = audio_S, rate
    self.loudness = audio_io.loudness(audio_S, rate)
    self.at = functools.cache(self._at)

  def _at(self, rate: int) -> np.ndarray:
    if rate == self.rate:
      return self.audio_S
    import librosa

    return librosa.resample(self.audio_S, orig_sr=self.rate, target_sr=rate, res_type="soxr_hq")

  def levelled(self, rate: int) -> np.ndarray:
    """The clip at the level that all audio has which a model reads; silence as it is."""
    # No limit to the peak: nothing is written, and a limit would leave loud clips quieter.
    is_finite = np.isfinite(self.loudness)
    gain = 10 ** ((audio_io.INPUT_LUFS - self.loudness) / 20) if is_finite else 1.0
    return self.at(rate) * np.float32(gain)


@dataclasses.dataclass(frozen=True)
class MeasuredClip:
  """All measures of one clip.

  Attributes:
    path: Its file.
    name: Path in its directory.
    sha256: Hash of the file.
    rate: Sample rate of the file in Hz.
    seconds: Length of what was read.
    is_cut: Whether the file goes on after that.
    numbers: Scalars by name; NaN where one is not defined. LUFS is -inf for silence.
    key: Name of the key, "" where there is none or notes were not measured.
    chroma_PxT: Chroma, float32 [12, frames].
    embeddings: {name: float32 [windows, dimensions]}.
    tags_K: Posteriors of a tagger's tags, means over the clip, float32 [K]; [0] where not asked.
  """

  path: pathlib.Path
  name: str
  sha256: str
  rate: int
  seconds: float
  is_cut: bool
  numbers: dict[str, float]
  key: str
  chroma_PxT: np.ndarray
  embeddings: dict[str, np.ndarray]
  tags_K: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))


Arrays = dict[str, Any]


def _heard(sound: _Sound) -> Arrays:
  """What needs no model; clipping is told at the file's own rate, as resampling rounds tops off."""
  checks = check_audio(sound.audio_S, sound.rate)
  beat = beat_strength(sound.at(RHYTHM_RATE)) or (np.nan, np.nan)
  return {
    "rate": sound.rate,
    "seconds": len(sound.audio_S) / sound.rate,
    "loudness": sound.loudness,
    "peak": checks.peak,
    "clipped_share": checks.clipped_share,
    "level_range_db": checks.level_range_db,
    "is_silent": checks.silent,
    "is_constant": checks.constant,
    "beat_strength": beat[0],
    "beats_per_minute": beat[1],
    "onset_rate": onset_rate(sound.at(RHYTHM_RATE)),
    "chroma": chroma(sound.at(CHROMA_RATE)),
  }


def _noted(model: basic_pitch.NoteModel, sound: _Sound) -> Arrays:
  audio_S = sound.at(basic_pitch.SAMPLE_RATE)
  seconds = len(audio_S) / basic_pitch.SAMPLE_RATE
  posteriors = model(audio_S)
  use: NoteUse = note_use(posteriors.notes_TxP, seconds, basic_pitch.FRAME_RATE)
  first = note_use(posteriors.denser_TxP, seconds, basic_pitch.FRAME_RATE)
  return {
    "held_notes": use.held_notes_per_second,
    "frames_with_note": use.frames_with_note_in_clip,
    "key_clarity": np.nan if use.key_clarity is None else use.key_clarity,
    "key": use.key,
    "first_held_notes": first.held_notes_per_second,
    "first_frames_with_note": first.frames_with_note,
  }


class Measurer:
  """Measures clips, each extractor's part once.

  Args:
    embeddings: Embeddings to take.
    notes: The judge of notes, or None to do without.
    folder: Where results are kept, on a disk or in a bucket; made when needed.
    max_seconds: How much of a file is read.
    as_is: Whether embeddings and tagger hear clips at their own level, not at one for all.
    tagger: Tagger whose posteriors are kept, or None.
  """

  def __init__(
    self,
    embeddings: Sequence[AudioEmbedding],
    notes: basic_pitch.NoteModel | None,
    folder: Any,
    max_seconds: float,
    as_is: bool = False,
    tagger: Tagger | None = None,
  ):
    self._folder, self._max_seconds = folder, max_seconds
    self._extractors: dict[str, Callable[[_Sound], Arrays]] = {f"heard-{_VERSION}": _heard}
    if notes is not None:
      key = f"notes-{_VERSION}-{notes.digest[:12]}"
      self._extractors[key] = functools.partial(_noted, notes)
    for embedding in embeddings:
      key = f"{embedding.name}-{embedding.digest[:12]}{'-as_is' if as_is else ''}"
      self._extractors[key] = functools.partial(_embedded, embedding, as_is)
    if tagger is not None:
      arrays = [np.asarray(tagger.params[name]) for name in sorted(tagger.params)]
      key = f"tags-{digest_of(*arrays)[:12]}{'-as_is' if as_is else ''}"
      self._extractors[key] = functools.partial(_tagged, tagger, as_is)

  def __call__(self, path: pathlib.Path, name: str) -> MeasuredClip:
    """Measures a file, or reads what was measured of a file of the same contents.

    Args:
      path: Audio file.
      name: What it is called in results.

    Raises:
      UnusableClip: The file cannot be read, or is too short.
      UserError: Results cannot be kept.
    """
    try:
      sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
      raise UnusableClip(f"{path} cannot be read: {error.strerror or error}") from error
    kept = {key: self._folder / f"{sha256[:24]}-{self._max_seconds:g}s-{key}.npz"
            for key in self._extractors}  # fmt: skip
    parts = {key: _read(file) for key, file in kept.items()}
    if missing := [key for key, part in parts.items() if part is None]:
      sound, is_cut = _load(path, self._max_seconds)
      for key in missing:
        fresh: Arrays = {**self._extractors[key](sound), "is_cut": is_cut}
        _keep(kept[key], fresh)
        parts[key] = fresh
    found: Arrays = {}
    for part in parts.values():
      found |= part or {}
    return _clip(path, name, sha256, found)

  def hear(self, audio_S: np.ndarray, rate: int, name: str) -> MeasuredClip:
    """Measures a clip that is in no file; nothing is kept.

    Args:
      audio_S: The clip [samples], at least half a second.
      rate: Its sample rate in Hz.
      name: What it is called in results.
    """
    sound = _Sound(np.asarray(audio_S, np.float32), rate)
    found: Arrays = {"is_cut": False}
    for extractor in self._extractors.values():
      found |= extractor(sound)
    return _clip(pathlib.Path(name), name, digest_of(sound.audio_S), found)


def _load(path: pathlib.Path, max_seconds: float) -> tuple[_Sound, bool]:
  try:
    audio_S, rate, is_cut = audio_io.load_start(path, max_seconds)
  except UserError as error:
    raise UnusableClip(str(error)) from error
  if len(audio_S) < SHORTEST_SECONDS * rate:
    raise UnusableClip(f"{path} is {len(audio_S) / rate:.2f} s long, under {SHORTEST_SECONDS} s")
  return _Sound(audio_S, rate), is_cut


def _embedded(embedding: AudioEmbedding, as_is: bool, sound: _Sound) -> Arrays:
  rate = embedding.sample_rate
  vectors = embedding(sound.at(rate) if as_is else sound.levelled(rate))
  return {f"embedding:{embedding.name}": np.asarray(vectors, np.float32)}


def _tagged(tagger: Tagger, as_is: bool, sound: _Sound) -> Arrays:
  rate = MUSICNN_SAMPLE_RATE
  logits, _ = tagger.windows(sound.at(rate) if as_is else sound.levelled(rate), PATCH_FRAMES)
  # The mean of probabilities, as the tagger's own call has it.
  return {"tags": np.mean(1.0 / (1.0 + np.exp(-logits)), axis=0, dtype=np.float32)}


def _clip(path: pathlib.Path, name: str, sha256: str, found: Arrays) -> MeasuredClip:
  arrays = {k: v for k, v in found.items() if np.ndim(v)}
  scalars = {k: v for k, v in found.items() if not np.ndim(v)}
  others = ("rate", "seconds", "is_cut", "key")
  return MeasuredClip(
    path=path,
    name=name,
    sha256=sha256,
    rate=int(scalars["rate"]),
    seconds=float(scalars["seconds"]),
    is_cut=bool(scalars["is_cut"]),
    numbers={k: float(v) for k, v in scalars.items() if k not in others},
    key=str(scalars.get("key", "")),
    chroma_PxT=arrays["chroma"],
    embeddings={
      k.removeprefix("embedding:"): v for k, v in arrays.items() if k.startswith("embedding:")
    },
    tags_K=arrays.get("tags", np.zeros(0, np.float32)),
  )


def _read(file: Any) -> Arrays | None:
  try:
    with np.load(io.BytesIO(file.read_bytes())) as arrays:
      return dict(arrays)
  # Missing, or torn by a power cut: measured again.
  except Exception:
    return None


def _keep(file: Any, arrays: Arrays) -> None:
  content = io.BytesIO()
  np.savez(content, **arrays)
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise write_error(file, error) from error
  # Whole or not at all: a run may be killed at any moment.
  write_files({file: content.getvalue()})


@dataclasses.dataclass(frozen=True)
class MeasuredSet:
  """The clips of a directory.

  Attributes:
    clips: Those that could be measured.
    left_out: Why the others could not, a line each.
  """

  clips: tuple[MeasuredClip, ...]
  left_out: tuple[str, ...]

  @property
  def sha256(self) -> str:
    """Hash of the contents of all files that were measured, in any order."""
    hashes = sorted(clip.sha256 for clip in self.clips)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def measure_all(
  files: Sequence[pathlib.Path],
  root: pathlib.Path,
  measurer: Callable[[pathlib.Path, str], MeasuredClip],
  title: str,
  progress: Progress,
) -> MeasuredSet:
  """Measures the files of a directory one by one and tells how far it is.

  Args:
    files: Audio files.
    root: Directory that their names are given in.
    measurer: A `Measurer`.
    title: What the set is called in progress lines.
    progress: Function that gets the lines.

  Raises:
    UserError: if no file can be measured, or the measurer cannot go on.
  """
  clips, left_out = [], []
  began = told = time.monotonic()
  for i, path in enumerate(files, 1):
    name = path.relative_to(root).as_posix()
    try:
      clips.append(measurer(path, name))
    except UnusableClip as error:
      left_out.append(str(error))
      progress(f"audio: left out: {error}")
    now = time.monotonic()
    if now - told > _PROGRESS_SECONDS or i == len(files):
      left = (now - began) / i * (len(files) - i)
      progress(f"audio: {title}: {i} of {len(files)} clips, about {left:.0f} s left")
      told = now
  if not clips:
    raise UserError(f"no clip of {root} can be measured; the first: {left_out[0]}")
  return MeasuredSet(tuple(clips), tuple(left_out))
