"""Decoding by ffmpeg and ffprobe, through a pipe, so that no folder of temporary files is needed.

A failure is either the file's or the machine's. To tell them apart, a sound that is known to be
good is decoded by the same programs at the same place: where that fails too, the machine is at
fault.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import threading

import numpy as np

from melody_jax.errors import UserError
from melody_jax.host.programs import check_not_killed

_BLOCK = 1 << 16  # frames a block
_KEPT_LINES = 20  # of what ffmpeg complains about; a damaged file may give thousands
_DRM_CODECS = ("drms", "drmi", "drmt")
# Containers without a length of their own: ffprobe guesses one from the bit rate.
_GUESSED_LENGTH = frozenset(("aac", "mp3", "ac3", "eac3", "amr", "dts", "loas", "mpeg", "mpegts"))


class DecodeError(Exception):
  """Raised for a file that ffmpeg cannot decode, through the file's own fault.

  Attributes:
    is_protected: Whether the file is encrypted.
  """

  def __init__(self, message: str, is_protected: bool = False):
    super().__init__(message)
    self.is_protected = is_protected


@dataclasses.dataclass(frozen=True)
class Stream:
  """First audio stream of a file, as its header describes it.

  Attributes:
    rate: Sample rate in Hz.
    channels: Number of channels.
    seconds: Length; None where the header does not state one.
    is_guess: Whether the length is a guess from the bit rate.
  """

  rate: int
  channels: int
  seconds: float | None
  is_guess: bool


def is_installed() -> bool:
  """Whether ffmpeg and ffprobe are on the path."""
  return bool(shutil.which("ffmpeg") and shutil.which("ffprobe"))


def _argument(path: pathlib.Path) -> str:
  # As it stands a name such as "1:2 intro.m4a" asks for a protocol, and "-x.mp3" for an option.
  return f"file:{os.path.abspath(path)}"


def _start(command: list[str], **streams) -> subprocess.Popen:
  try:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **streams)
  except FileNotFoundError as error:
    raise UserError(f"{command[0]} is not installed: install ffmpeg, or check PATH") from error
  except OSError as error:
    raise UserError(f"cannot start {command[0]}: {error.strerror or error}") from error


def _first_line(complaints: bytes, path: pathlib.Path | None = None) -> str:
  """First complaint, without memory addresses, so that a report is the same every time."""
  text = complaints.decode(errors="replace")
  lines = re.sub(r" @ 0x[0-9a-f]+", "", text).strip().splitlines() or ["no audio stream"]
  return lines[0].removeprefix(f"{_argument(path)}: " if path else "")


def _known_good() -> bytes:
  """A WAV file of a tenth of a second at 8 kHz, 16-bit mono."""
  pcm = bytes(1600)
  head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(pcm), b"WAVE", b"fmt ", 16, 1, 1, 8000,
                     16_000, 2, 16)  # fmt: skip
  return head + struct.pack("<4sI", b"data", len(pcm)) + pcm


def check_works() -> None:
  """Decodes a sound that is known to be good.

  Raises:
    UserError: ffmpeg or ffprobe fails even at that, so the fault is none of a file.
  """
  for command, expected in (
    (["ffprobe", "-v", "error", "-show_entries", "stream=channels", "-of", "csv=p=0"], b"1"),
    (["ffmpeg", "-v", "error"], bytes(3200)),
  ):
    given = ["-f", "wav", "-i", "pipe:0"]
    out = ["-f", "f32le", "pipe:1"] if command[0] == "ffmpeg" else []
    process = _start([*command, *given, *out], stdin=subprocess.PIPE)
    try:
      decoded, complaints = process.communicate(_known_good())
    except OSError as error:
      raise UserError(f"{command[0]} does not work here: {error.strerror}") from error
    if process.returncode or decoded.strip() != expected.strip():
      reason = _first_line(complaints) if complaints else f"status {process.returncode}"
      raise UserError(
        f"{command[0]} does not work here ({reason}): it fails even at a sound known to be good"
      )


def probe(path: pathlib.Path) -> Stream:
  """Describes the first audio stream of a file.

  Raises:
    DecodeError: There is none, or it is encrypted.
    UserError: ffprobe is missing or does not work.
  """
  command = ["ffprobe", "-v", "error", "-of", "json", "-show_entries"]
  command += [
    "stream=codec_type,codec_name,codec_tag_string,sample_rate,channels,duration"
    ":stream_tags=DURATION:format=format_name,duration,nb_streams",
    "-i", _argument(path),
  ]  # fmt: skip
  process = _start(command, stdin=subprocess.DEVNULL)
  answer, complaints = process.communicate()
  check_not_killed(process.returncode, "ffprobe", path)
  try:
    found = json.loads(answer or b"{}")
  except ValueError:
    found = {}
  streams = [s for s in found.get("streams", ()) if s.get("codec_type") == "audio"]
  if process.returncode or not streams:
    check_works()
    raise DecodeError(_first_line(complaints, path))
  stream, container = streams[0], found.get("format", {})
  # An encrypted stream may decode to noise instead of failing.
  if {stream.get("codec_name"), stream.get("codec_tag_string")} & set(_DRM_CODECS):
    raise DecodeError("the audio stream is encrypted", is_protected=True)
  rate, channels = int(stream.get("sample_rate") or 0), int(stream.get("channels") or 0)
  if not rate or not channels:
    raise DecodeError(_first_line(complaints, path))
  is_guess = bool(set(container.get("format_name", "").split(",")) & _GUESSED_LENGTH)
  return Stream(rate, channels, _seconds(stream, container), is_guess)


def _seconds(stream: dict, container: dict) -> float | None:
  """Length that the header states for the stream, not for a film around it."""
  tagged = stream.get("tags", {}).get("DURATION", "")
  match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", tagged)
  if match:
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
  alone = container.get("duration") if container.get("nb_streams") == 1 else None
  try:
    return float(stream.get("duration") or alone or "not stated")
  except ValueError:
    return None


class Decoding:
  """One run of ffmpeg over the first audio stream of a file.

  Args:
    path: File.
    stream: What `probe` says of it.
    max_seconds: Length after which decoding stops; None for all.

  Attributes:
    complaints: What ffmpeg had to say; complete once `blocks` is at its end.
  """

  def __init__(self, path: pathlib.Path, stream: Stream, max_seconds: float | None = None):
    self._path, self._stream, self._max_seconds = path, stream, max_seconds
    self.complaints = b""

  def blocks(self) -> Iterator[np.ndarray]:
    """Yields the samples, float32 [frames, channels], at the rate of the stream.

    Raises:
      DecodeError: The file is damaged or encrypted.
      UserError: ffmpeg is missing, does not work, or was killed.
    """
    limit = [] if self._max_seconds is None else ["-t", str(self._max_seconds)]
    # Rate and channels are named: a stream that changes them on its way is brought back to them.
    command = ["ffmpeg", "-v", "error", "-protocol_whitelist", "file,pipe", "-i"]
    command += [_argument(self._path), "-map", "0:a:0", *limit, "-ar", str(self._stream.rate)]
    command += ["-ac", str(self._stream.channels), "-c:a", "pcm_f32le", "-f", "f32le", "pipe:1"]
    process = _start(command, stdin=subprocess.DEVNULL)
    lines: list[bytes] = []
    reader = threading.Thread(target=_collect, args=(process.stderr, lines), daemon=True)
    reader.start()
    frame = 4 * self._stream.channels
    frames, at_end = 0, False
    try:
      while data := process.stdout.read(_BLOCK * frame):  # type: ignore[union-attr]
        block = np.frombuffer(data[: len(data) // frame * frame], "<f4")
        frames += len(block) // self._stream.channels
        yield block.reshape(-1, self._stream.channels)
      at_end = True
    finally:
      if not at_end:  # the reader has had enough
        process.kill()
      process.stdout.close()  # type: ignore[union-attr]
      status = process.wait()
      reader.join()
    self.complaints = b"".join(lines)
    check_not_killed(status, "ffmpeg", self._path)
    if status or not frames:
      check_works()
      text = self.complaints.lower()
      message = _first_line(self.complaints, self._path)
      if status < 0:
        message = f"ffmpeg crashes on it (signal {-status})"
      raise DecodeError(message, is_protected=b"encrypt" in text or b"drm" in text)

  @property
  def complaint(self) -> str:
    """First line of what ffmpeg had to say; empty if nothing."""
    return _first_line(self.complaints, self._path) if self.complaints else ""


def _collect(stream, lines: list[bytes]) -> None:
  """Reads a pipe to its end and keeps the first lines: a pipe that nobody reads blocks."""
  for line in stream:
    if len(lines) < _KEPT_LINES:
      lines.append(line)
  stream.close()
