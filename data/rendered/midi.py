"""Reads from a MIDI file what a caption may state: instruments, drums, tempo and length.

A reader of our own: it is short, and the builders need no further package.
"""

import collections
import dataclasses
import pathlib

DRUM_CHANNEL = 9  # counted from 0; General MIDI calls it 10

# The 128 programs of General MIDI level 1, in words of a listener: "choir", not "Choir Aahs".
PROGRAMS = (
  "piano", "bright piano", "electric grand piano", "honky-tonk piano", "electric piano",
  "electric piano", "harpsichord", "clavinet", "celesta", "glockenspiel", "music box",
  "vibraphone", "marimba", "xylophone", "tubular bells", "dulcimer", "Hammond organ",
  "percussive organ", "rock organ", "church organ", "reed organ", "accordion", "harmonica",
  "bandoneon", "nylon guitar", "steel-string guitar", "jazz guitar", "clean electric guitar",
  "muted electric guitar", "overdriven guitar", "distorted guitar", "guitar harmonics",
  "double bass", "fingered electric bass", "picked electric bass", "fretless bass", "slap bass",
  "slap bass", "synth bass", "synth bass", "violin", "viola", "cello", "contrabass",
  "tremolo strings", "pizzicato strings", "harp", "timpani", "strings", "slow strings",
  "synth strings", "synth strings", "choir", "voice oohs", "synth voice", "orchestra hit",
  "trumpet", "trombone", "tuba", "muted trumpet", "French horn", "brass section", "synth brass",
  "synth brass", "soprano saxophone", "alto saxophone", "tenor saxophone", "baritone saxophone",
  "oboe", "English horn", "bassoon", "clarinet", "piccolo", "flute", "recorder", "pan flute",
  "blown bottle", "shakuhachi", "whistle", "ocarina", "square-wave synth lead",
  "sawtooth synth lead", "calliope", "synth lead", "charang synth lead", "synth voice lead",
  "fifths synth lead", "bass and lead synth", "new age pad", "warm synth pad",
  "polysynth", "choir pad", "bowed pad", "metallic pad", "halo pad", "sweep pad",
  "rain synth effect", "soundtrack pad", "crystal synth", "atmosphere pad", "bright synth pad",
  "goblin synth", "echo synth", "sci-fi synth", "sitar", "banjo", "shamisen", "koto", "kalimba",
  "bagpipe", "fiddle", "shanai", "tinkle bell", "agogo", "steel drums", "woodblock", "taiko",
  "melodic tom", "synth drum", "reverse cymbal", "fret noise", "breath noise", "seashore",
  "bird tweet", "telephone", "helicopter", "applause", "gunshot",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MidiFacts:
  """What a MIDI file plays.

  Attributes:
    instruments: Names of the instruments without drums, those with most notes first. Each name
      stands once.
    programs: General MIDI program numbers, from 0, in the same order. Two programs may share a
      name.
    drums: Whether the drum channel plays more than a few notes.
    tempo: Beats per minute. If the tempo changes, the one that lasts longest.
    seconds: Time of the last event in seconds.
  """

  instruments: tuple[str, ...]
  programs: tuple[int, ...]
  drums: bool
  tempo: float
  seconds: float


# Seven bits a byte; the highest bit says that another byte follows.
def _variable_length(data: bytes, at: int) -> tuple[int, int]:
  value = 0
  while True:
    byte = data[at]
    value, at = value << 7 | byte & 0x7F, at + 1
    if byte < 0x80:
      return value, at


def _track_events(data: bytes) -> list[tuple[int, int, bytes]]:
  """Splits a track into events (tick, status, payload). A meta event has its type in front."""
  events, at, tick, running = [], 0, 0, 0
  while at < len(data):
    delta, at = _variable_length(data, at)
    tick += delta
    status = data[at]
    if status >= 0x80:
      at += 1
    else:  # "running status": the byte is left out where it is that of the event before
      status = running
    # 0xFF is a meta event (tempo, names), 0xF0 and 0xF7 are messages to one maker's machine.
    if status == 0xFF:
      kind = data[at : at + 1]
      length, at = _variable_length(data, at + 1)
      events.append((tick, status, kind + data[at : at + length]))
      at += length
    elif status in (0xF0, 0xF7):
      length, at = _variable_length(data, at)
      at += length
    else:
      running = status
      # A change of program and channel pressure have one byte, all other messages two.
      length = 1 if status >> 4 in (0xC, 0xD) else 2
      events.append((tick, status, data[at : at + length]))
      at += length
  return events


def _events(data: bytes) -> tuple[int, list[tuple[int, int, bytes]]]:
  if data[:4] != b"MThd":
    raise ValueError("not a MIDI file")
  division = int.from_bytes(data[12:14], "big")
  at, events = 14, []
  while at + 8 <= len(data):
    length = int.from_bytes(data[at + 4 : at + 8], "big")
    if data[at : at + 4] == b"MTrk":
      events += _track_events(data[at + 8 : at + 8 + length])
    # Chunks of other kinds are skipped, as the standard asks.
    at += 8 + length
  # By time over all tracks, and stable: a program set at the same tick comes before its notes.
  return division, sorted(events, key=lambda event: event[0])


def read_facts(path: pathlib.Path) -> MidiFacts:
  """Reads the facts of a MIDI file.

  Args:
    path: A standard MIDI file with ticks per quarter note.

  Raises:
    ValueError, IndexError: The file is not a MIDI file, or ends too early.
  """
  division, events = _events(path.read_bytes())
  programs, drums = dict.fromkeys(range(16), 0), 0
  notes: collections.Counter[int] = collections.Counter()
  # 120 beats per minute until the file says otherwise, by the MIDI standard.
  microseconds, last_tick, seconds = 500_000, 0, 0.0
  tempo_seconds: dict[int, float] = collections.defaultdict(float)
  for tick, status, payload in events:
    elapsed = (tick - last_tick) * microseconds / 1e6 / division
    seconds, last_tick = seconds + elapsed, tick
    # Seconds, not ticks: a slow passage lasts as long as it is heard.
    tempo_seconds[microseconds] += elapsed
    channel = status & 0x0F
    if status == 0xFF and payload[0] == 0x51:
      microseconds = int.from_bytes(payload[1:4], "big")
    elif status >> 4 == 0xC:
      programs[channel] = payload[0]
    elif status >> 4 == 0x9 and payload[1]:  # a note of velocity 0 is the end of one
      if channel == DRUM_CHANNEL:
        drums += 1
      else:
        notes[programs[channel]] += 1
  ranked = [program for program, _ in notes.most_common()]
  longest = max(tempo_seconds, key=lambda tempo: tempo_seconds[tempo]) if tempo_seconds else 500_000
  return MidiFacts(
    instruments=tuple(dict.fromkeys(PROGRAMS[p] for p in ranked)),
    programs=tuple(ranked),
    # A few hits may be an accent; from here on a listener would say "with drums".
    drums=drums > 8,
    tempo=6e7 / longest,
    seconds=seconds,
  )
