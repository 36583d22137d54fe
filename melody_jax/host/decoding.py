"""Any audio file to a mono waveform, and a verdict: good, damaged, or the machine's fault.

libsndfile decodes; what it does not know or finds broken goes to ffmpeg, if that is installed.

- `DamagedAudio` is raised for what the file is to blame for. A builder puts such a file aside.
- `UserError` is raised for what the machine is to blame for: a disk that cannot be read, a decoder
  that is missing, was killed or fails at every sound. It ends a command: other files would fare no
  better.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import math
import os
import pathlib
import sys
import threading
from typing import Any
import warnings

import numpy as np

from melody_jax.errors import UserError
from melody_jax.host import ffmpeg, garbled, stated_length

_BLOCK = 1 << 16  # frames a read: libsndfile's Vorbis decoder overflows its stack on long ones
# libsndfile's codes for files that are none of its own, and for trouble of the system.
_NOT_KNOWN, _SYSTEM = (1, 4), 2
_MP3 = "MP3"
_WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4}  # bytes of a sample
_MANY_FRAMES = 1 << 48  # libsndfile's number of frames for a header without one is about 2^63
# Codecs pad and trim by less than this.
_LOST_SECONDS, _LOST_SHARE = 0.5, 0.002
_GUESS_LOST_SHARE = 0.1  # the same for lengths that ffprobe only guessed
# Channels cancel where their mean has under a tenth of the power that unrelated ones would leave.
_CANCELLED = 0.1
_OFFSET = 1e-4  # a constant part of the signal under this (-80 dBFS) is left as it is

# Times full scale. Levelling by the peak would turn a clip with one such sample into silence; the
# hottest mixes in floating point stay well below.
MAX_PEAK = 10.0


class DamagedAudio(Exception):
  """Raised for a file that cannot be used, through the file's own fault.

  Attributes:
    reason: "corrupt", "truncated" (sound is missing), "drm" (protected), "samples" (not finite, or
      absurdly large) or "garbled" (bytes read in the wrong way, or of something else).
    detail: What was wrong, in words.
    stated: Length in seconds by the header; None where it states none.
  """

  def __init__(self, reason: str, detail: str, stated: float | None = None):
    super().__init__(detail)
    self.reason, self.detail, self.stated = reason, detail, stated


@dataclasses.dataclass(frozen=True)
class Sound:
  """A decoded file.

  Attributes:
    audio: Mean of the channels without its offset, float32 [samples]; one where they cancel.
    rate: Sample rate in Hz.
    notes: What the user should know about the file.
  """

  audio: np.ndarray
  rate: int
  notes: tuple[str, ...] = ()


Blocks = Callable[[], Iterator[np.ndarray]]  # each call decodes from the start: [frames, channels]


def read(path: str | os.PathLike, max_seconds: float | None = None) -> Sound:
  """Decodes an audio file.

  Args:
    path: Audio file of any sample rate and number of channels.
    max_seconds: Length after which decoding stops; None for all of it.

  Raises:
    DamagedAudio: The file is damaged, protected, or no audio; or a part of its sound is missing.
    UserError: The file cannot be opened, a decoder is missing or does not work, or memory is short.
  """
  try:
    return _read(pathlib.Path(path), max_seconds)
  except MemoryError as error:
    raise UserError(f"not enough memory to decode {path}: cut it into shorter files") from error


def _read(path: pathlib.Path, max_seconds: float | None) -> Sound:
  _check_readable(path, whole=False)
  has_ffmpeg = ffmpeg.is_installed()
  found, failure = _by_libsndfile(path, max_seconds, has_ffmpeg)
  if found is not None:
    return found
  # The disk's fault looks like the file's to a decoder.
  _check_readable(path, whole=True)
  if has_ffmpeg:
    return _by_ffmpeg(path, max_seconds, failure)
  if failure.reason == "unknown":
    raise UserError(
      f"ffmpeg is not installed, and libsndfile alone cannot read {path}: install ffmpeg"
      " (apt-get install ffmpeg), or take the file away"
    )
  raise failure


def seconds(path: str | os.PathLike) -> float | None:
  """Length of an audio file by its header, without decoding it; None if the header does not say.

  Raises:
    UserError: The file cannot be opened, or ffprobe does not work.
  """
  import soundfile

  path = pathlib.Path(path)
  _check_readable(path, whole=False)
  try:
    with _quiet(), soundfile.SoundFile(_name(path)) as file:
      return _stated(file, path)
  except (soundfile.SoundFileError, RuntimeError, TypeError, ZeroDivisionError):
    if not ffmpeg.is_installed():
      return None
  try:
    stream = ffmpeg.probe(path)
  except ffmpeg.DecodeError:
    return None
  return None if stream.is_guess else stream.seconds


def _stated(file, path: pathlib.Path) -> float | None:
  """Length by the header of a file open in libsndfile, which makes one up where there is none."""
  if file.frames >= _MANY_FRAMES or (
    file.format == _MP3 and not stated_length.mp3_states_length(path)
  ):
    return None
  return file.frames / file.samplerate


def _name(path: pathlib.Path) -> bytes:
  """A path for libsndfile: to it "-" is standard input, and a name need not be UTF-8."""
  return os.fsencode(os.path.abspath(path))


def _check_readable(path: pathlib.Path, whole: bool) -> None:
  """Opens the file, and with `whole` reads all of it: the system's errors show as such."""
  try:
    with open(path, "rb") as file:
      empty = not file.read(1)
      while whole and file.read(1 << 20):
        pass
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
  if empty:
    raise DamagedAudio("corrupt", "the file is empty")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps what libsndfile's decoders print themselves off standard error: they print a lot."""
  with _quiet_lock, contextlib.ExitStack() as stack:
    try:
      sys.stderr.flush()
      kept = os.dup(2)
      nowhere = os.open(os.devnull, os.O_WRONLY)
    except (OSError, AttributeError, ValueError):  # no standard error to be kept quiet
      yield
      return
    stack.callback(os.close, kept)
    stack.callback(os.dup2, kept, 2)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    yield


_quiet_lock = threading.Lock()


_FOREIGN = DamagedAudio("unknown", "a format that libsndfile does not know")


def _by_libsndfile(
  path: pathlib.Path, max_seconds: float | None, has_ffmpeg: bool
) -> tuple[Sound | None, DamagedAudio]:
  """(sound, -), or (None, what is wrong with the file): "unknown" for what ffmpeg should read."""
  import soundfile

  stated = None
  try:
    with _quiet(), soundfile.SoundFile(_name(path)) as file:
      rate, stated = file.samplerate, _stated(file, path)
      is_guess = file.format == _MP3 and stated is None
      if is_guess and has_ffmpeg:
        return None, _FOREIGN  # libsndfile stops where it guesses the end to be
      limit = math.inf if max_seconds is None else max_seconds * rate
      sound = _mix(lambda: _frames(file, limit), rate, file)
  except (soundfile.SoundFileError, RuntimeError, TypeError, ZeroDivisionError) as error:
    code = getattr(error, "code", None)
    if code == _SYSTEM:
      raise UserError(f"{path} cannot be read: libsndfile met an error of the system") from error
    if code is None or code in _NOT_KNOWN:
      return None, _FOREIGN
    return None, DamagedAudio("corrupt", " ".join(str(error).split()), stated)
  have = len(sound.audio) / rate
  try:
    if max_seconds is None or have < max_seconds:
      _check_length(have, stated)
      _check_container(path, have)
  except DamagedAudio as damaged:
    return None, damaged
  if is_guess:
    note = "its header states no length; with ffmpeg installed it would surely be read to its end"
    sound = dataclasses.replace(sound, notes=(*sound.notes, note))
  return sound, _FOREIGN


def _frames(file, limit: float) -> Iterator[np.ndarray]:
  """Reads an open file from its start, to its end or for `limit` frames."""
  file.seek(0)
  read = 0
  while read < limit and len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
    read += len(block)
    yield block


def _by_ffmpeg(path: pathlib.Path, max_seconds: float | None, failure: DamagedAudio) -> Sound:
  """Decodes with ffmpeg. `failure` is what libsndfile found wrong."""
  try:
    stream = ffmpeg.probe(path)
    decoding = ffmpeg.Decoding(path, stream, max_seconds)
    sound = _mix(decoding.blocks, stream.rate)
  except ffmpeg.DecodeError as error:
    raise DamagedAudio("drm" if error.is_protected else "corrupt", str(error)) from error
  have = len(sound.audio) / stream.rate
  if max_seconds is not None and have >= max_seconds:
    return sound
  _check_length(have, failure.stated)
  if not stream.is_guess:
    _check_length(have, stream.seconds)
  elif decoding.complaint and stream.seconds and have < (1 - _GUESS_LOST_SHARE) * stream.seconds:
    # A guess alone proves nothing, and neither does a complaint; both together do.
    raise DamagedAudio("truncated", _missing(have, stream.seconds))
  _check_container(path, have)
  if decoding.complaint and failure.reason == "corrupt":
    note = f"damaged in places ({decoding.complaint}); {have:.1f} s of it are used"
    sound = dataclasses.replace(sound, notes=(*sound.notes, note))
  return sound


def _missing(have: float, stated: float) -> str:
  return f"only {have:.1f} s of the {stated:.1f} s that its header states can be decoded"


def _check_length(have: float, stated: float | None) -> None:
  if stated is not None and stated - have > _LOST_SECONDS + _LOST_SHARE * stated:
    raise DamagedAudio("truncated", _missing(have, stated), stated)


def _check_container(path: pathlib.Path, have: float) -> None:
  """Looks for lost sound where decoders do not: see `stated_length`."""
  _check_length(have, have / max(stated_length.share_present(path), 1e-9))
  if stated_length.is_ogg_cut_off(path):
    raise DamagedAudio("truncated", f"the file ends in the middle of the music, after {have:.1f} s")


def _mix(blocks: Blocks, rate: int, file: Any = None) -> Sound:
  """Mean of the channels, without a constant part; the loudest channel where they cancel.

  Args:
    blocks: Decodes.
    rate: Sample rate in Hz.
    file: What is decoded, where libsndfile has it open.

  Raises:
    DamagedAudio: Samples are not finite or absurd, or are no sound.
  """
  # Block by block, so that a long stereo file is never held twice.
  mono, frames = [], 0
  total, power = np.zeros(1), np.zeros(1)
  watch = garbled.Watch()
  for block in blocks():
    if wrong := check_samples(block):
      raise DamagedAudio("samples", wrong)
    watch.see(block)
    # A channel a row: sums along rows of two samples take numpy thirty times as long.
    rows = np.ascontiguousarray(block.T)
    total = total + rows.sum(axis=1, dtype=np.float64)
    power = power + [float(row @ row) for row in rows.astype(np.float64)]
    mono.append(rows.mean(axis=0))
    frames += len(block)
  if not frames:
    return Sound(np.zeros(0, np.float32), rate)
  verdict = watch.verdict(rate, *_integers(file))
  if verdict.fault:
    raise DamagedAudio("garbled", verdict.fault)
  notes = (verdict.note,) if verdict.note else ()
  audio = without_offset(np.concatenate(mono))
  offset = total / frames
  with np.errstate(over="ignore", invalid="ignore"):
    power = power / frames - np.square(offset)
    left = float(np.mean(np.square(audio, dtype=np.float64)))
    unrelated = float(power.sum()) / len(power) ** 2
  if len(power) == 1 or not left < _CANCELLED * unrelated or unrelated < _OFFSET**2:
    return Sound(audio, rate, notes)
  loudest = int(power.argmax())
  audio = without_offset(np.concatenate([block[:, loudest] for block in blocks()]))
  note = f"its channels cancel each other (inverted polarity); channel {loudest + 1} alone is used"
  return Sound(audio, rate, (*notes, note))


def _integers(file: Any) -> tuple[garbled.Ints | None, int]:
  """What reads a file of integers anew from any frame, and their bytes; (None, 0) for others."""
  width = _WIDTHS.get(file.subtype, 0) if file is not None else 0

  def read(first: int, frames: int) -> np.ndarray:
    file.seek(first)
    return file.read(frames, dtype="int32", always_2d=True)

  return (read, width) if width else (None, 0)


def check_samples(samples: np.ndarray) -> str:
  """What is wrong with samples as they were decoded; "" where nothing is.

  Args:
    samples: Samples [samples] or [samples, channels], before channels are mixed: two absurd ones
      may cancel out.
  """
  peak = float(np.max(np.abs(samples), initial=0.0))
  if not np.isfinite(peak):
    return "holds samples that are not finite"
  if peak > MAX_PEAK:
    return f"holds a sample of {peak:.3g} times full scale, more than {MAX_PEAK:g}"
  return ""


def without_offset(audio: np.ndarray) -> np.ndarray:
  """Takes away the constant part of a waveform [samples]: nobody hears it, but meters count it."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # samples that are not numbers show later
    offset = float(np.mean(audio, dtype=np.float64))
  return (audio - np.float32(offset)) if abs(offset) > _OFFSET else audio
