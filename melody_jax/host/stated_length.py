"""What the header of an audio file says about its length, against what is there.

libsndfile takes a WAV file that was cut off as a shorter one, without a word, and so it does with
Ogg. Both can be told from their bytes.
"""

import os
import pathlib
import struct

_OGG_PAGE = struct.Struct("<4sBBqIIIB")  # up to the number of segments
_OGG_LAST = 0x04  # flag of the last page of a stream
_OGG_TAIL = 1 << 17  # bytes; a page has at most 65,307
_MP3_SEARCHED = 1 << 12  # bytes after the tags; a frame has at most 1,441
_WAVE64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_UNKNOWN = (0, 0xFFFFFFFF)  # sizes that recorders write before they know better


def share_present(path: str | os.PathLike) -> float:
  """Share of the stated bytes that a file has: 1 if all are there, or if nothing is stated.

  WAV, RF64, Wave64, AIFF, AU and CAF state their bytes. Of Ogg, which does not, see
  `is_ogg_cut_off`.

  Raises:
    OSError: The file cannot be read.
  """
  path = pathlib.Path(path)
  there = path.stat().st_size
  with open(path, "rb") as file:
    stated = _stated_bytes(file)
  return min(1.0, there / stated) if stated else 1.0


def _stated_bytes(file) -> int:
  """Where the sound ends by the header of an open file; 0 if that is not stated."""
  head = file.read(40)
  kind, form = head[:4], head[8:12]
  if kind == b"RIFF" and form == b"WAVE":
    return _end_of_chunk(file, 12, "<4sI", b"data")
  if kind == b"RF64" and form == b"WAVE":
    # The true sizes stand in the first chunk: RIFF, then data.
    size = struct.unpack("<Q", head[28:36])[0] if head[12:16] == b"ds64" and len(head) > 35 else 0
    return size
  if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
    return _end_of_chunk(file, 12, ">4sI", b"SSND")
  if kind == b"caff":
    return _end_of_chunk(file, 8, ">4sq", b"data")
  if kind == b".snd" and len(head) >= 12:
    start, size = struct.unpack(">II", head[4:12])
    return 0 if size in _UNKNOWN else start + size
  if head[:16] == _WAVE64_RIFF and len(head) >= 24:
    return struct.unpack("<Q", head[16:24])[0]
  return 0


def _end_of_chunk(file, start: int, layout: str, wanted: bytes) -> int:
  """End of the chunk with the samples, in bytes from the start of the file; 0 if not stated."""
  header = struct.Struct(layout)
  while True:
    file.seek(start)
    found = file.read(header.size)
    if len(found) < header.size:
      return 0
    name, size = header.unpack(found)
    if name == wanted:
      return 0 if size in _UNKNOWN or size < 0 else start + header.size + size
    # Chunks of WAV and AIFF begin at even places, those of CAF anywhere.
    start += header.size + size + (size % 2 if header.size == 8 else 0)


def mp3_states_length(path: str | os.PathLike) -> bool:
  """Whether an MP3 file begins with a frame that counts the others (Xing, Info or VBRI).

  Without one every program guesses the length from the bit rate of the first frames.

  Raises:
    OSError: The file cannot be read.
  """
  with open(path, "rb") as file:
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:  # tags, with a length of seven bits a byte
      file.seek(10 + sum(byte << 7 * k for k, byte in enumerate(reversed(head[6:]))))
    else:
      file.seek(0)
    first = file.read(_MP3_SEARCHED)
  return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def is_ogg_cut_off(path: str | os.PathLike) -> bool:
  """Whether an Ogg file ends before its last page is whole, or without a page marked as the last.

  False for files of any other kind.

  Raises:
    OSError: The file cannot be read.
  """
  with open(path, "rb") as file:
    if file.read(4) != b"OggS":
      return False
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
  at = tail.rfind(b"OggS")
  while at >= 0:
    page = tail[at : at + _OGG_PAGE.size - 1 + 1]
    if len(page) == _OGG_PAGE.size:
      _, version, flags, *_, segments = _OGG_PAGE.unpack(page)
      table = tail[at + _OGG_PAGE.size : at + _OGG_PAGE.size + segments]
      if version == 0:  # else these four letters stand in the middle of a page by chance
        end = at + _OGG_PAGE.size + segments + sum(table)
        return len(table) < segments or end > len(tail) or not flags & _OGG_LAST
    at = tail.rfind(b"OggS", 0, at)
  return True
