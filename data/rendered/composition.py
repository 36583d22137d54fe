"""Invents short pieces over a groove: key, mode, tempo, chords, instruments, a melody.

Everything follows from the piece's name, so that a piece is the same on every machine.
"""

import dataclasses
import hashlib

import numpy as np

from data.rendered.grooves import Groove
from data.rendered.styles import STYLES

KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_SHARPS = ("cn", "c#", "dn", "d#", "en", "fn", "f#", "gn", "g#", "an", "a#", "bn")
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PIECE_SECONDS = 29.0

# Instruments that may take over the chords; those that may sing the melody, with their octave.
CHORD_VOICES = (
  "Piano1", "RhodesPiano", "HarpsiChord", "Vibraphone", "Marimba", "Organ1", "ChurchOrgan",
  "Accordion", "Bandoneon", "NylonGuitar", "SteelGuitar", "JazzGuitar", "CleanGuitar",
  "DistortionGuitar", "Strings", "PizzicatoString", "OrchestralHarp", "ChoirAahs",
  "BrassSection", "SynthStrings1", "WarmPad", "PolySynth", "Banjo", "Sitar", "Koto", "SteelDrums",
  "MusicBox", "Celesta",
)  # fmt: skip
LEAD_VOICES = {
  "Flute": 5, "Clarinet": 4, "Oboe": 5, "AltoSax": 4, "TenorSax": 4, "Trumpet": 4,
  "MutedTrumpet": 4, "Trombone": 3, "FrenchHorn": 4, "Violin": 5, "Cello": 3, "Harmonica": 5,
  "PanFlute": 5, "Recorder": 5, "Piano1": 5, "Vibraphone": 5, "Marimba": 5, "NylonGuitar": 4,
  "JazzGuitar": 4, "DistortionGuitar": 4, "Organ1": 5, "Accordion": 5, "SawWave": 5,
  "SquareWave": 5, "Fiddle": 5, "Whistle": 6, "Glockenspiel": 6, "Kalimba": 5, "ChoirAahs": 4,
}  # fmt: skip

# Chords as (semitones above the tonic, quality); four or eight or twelve bars.
_PLAIN = {
  "major": (
    ((0, ""), (9, "m"), (5, ""), (7, "")), ((0, ""), (7, ""), (9, "m"), (5, "")),
    ((0, ""), (5, ""), (0, ""), (7, "7")), ((9, "m"), (5, ""), (0, ""), (7, "")),
    ((0, ""), (4, "m"), (5, ""), (7, "")), ((0, ""), (2, "m"), (7, "7"), (0, "")),
  ),
  "minor": (
    ((0, "m"), (8, ""), (3, ""), (10, "")), ((0, "m"), (5, "m"), (7, "7"), (0, "m")),
    ((0, "m"), (10, ""), (8, ""), (7, "7")), ((0, "m"), (3, ""), (10, ""), (5, "m")),
    ((0, "m"), (5, "m"), (8, ""), (7, "")),
  ),
}  # fmt: skip
_JAZZ = {
  "major": (
    ((0, "M7"), (9, "m7"), (2, "m7"), (7, "7")), ((2, "m7"), (7, "7"), (0, "M7"), (0, "6")),
    ((4, "m7"), (9, "7"), (2, "m7"), (7, "7")), ((0, "M7"), (5, "M7"), (4, "m7"), (9, "7")),
  ),
  "minor": (
    ((0, "m7"), (5, "m7"), (2, "m7b5"), (7, "7")), ((2, "m7b5"), (7, "7"), (0, "m7"), (0, "m6")),
    ((0, "m7"), (8, "M7"), (5, "m7"), (7, "7")),
  ),
}  # fmt: skip
_BLUES = {
  "major": (tuple((d, "7") for d in (0, 0, 0, 0, 5, 5, 0, 0, 7, 5, 0, 7)),),
  "minor": (
    tuple((d, "7" if d in (7, 8) else "m7") for d in (0, 0, 0, 0, 5, 5, 0, 0, 8, 7, 0, 7)),
  ),
}  # fmt: skip
_CHORD_TONES = {
  "": (0, 4, 7), "m": (0, 3, 7), "7": (0, 4, 7, 10), "M7": (0, 4, 7, 11), "m7": (0, 3, 7, 10),
  "6": (0, 4, 7, 9), "m6": (0, 3, 7, 9), "m7b5": (0, 3, 6, 10),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Piece:
  """One composed piece.

  Attributes:
    score: mma source text.
    key, mode: "Eb", "minor".
    tempo: beats per minute as a listener counts them.
    metre: "3/4", or "".
    chord_voice, lead: the instruments chosen for it, in mma's names, or "".
  """

  score: str
  key: str
  mode: str
  tempo: int
  metre: str
  chord_voice: str
  lead: str


def generator(name: str) -> np.random.Generator:
  """The random stream that belongs to a name."""
  return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def _progression(rng: np.random.Generator, style: str, mode: str) -> tuple[tuple[int, str], ...]:
  tags = STYLES[style].tags
  if "blues" in tags or "boogie-woogie" in tags:
    table = _BLUES if rng.random() < 0.7 else _PLAIN
  elif {"jazz", "swing", "bossa nova", "latin", "soul", "r&b", "fusion"} & set(tags):
    table = _JAZZ if rng.random() < 0.75 else _PLAIN
  else:
    table = _PLAIN
  choices = table[mode]
  first = choices[rng.integers(len(choices))]
  return first if len(first) > 8 else first + choices[rng.integers(len(choices))]


# A motif is one bar of melody: (length in beats, steps along the scale from the note before; None
# is a rest). Motifs come back over other chords, as the phrases of a tune do.
Motif = list[tuple[float, int | None]]
_SYMBOLS = {2: "2", 1: "4", 0.5: "8"}
_FORMS = ("ABAC", "AABC", "ABAB", "AABA")


def _motif(rng: np.random.Generator, beats: int) -> Motif:
  notes: Motif = []
  left = float(beats)
  while left > 0:
    length = float(rng.choice((2.0, 1.0, 0.5), p=(0.25, 0.5, 0.25)))
    length = min(length, 1.0 if left >= 1 else 0.5) if length > left else length
    # Eighths come in pairs, so that the bar stays on the beat.
    for _ in range(2 if length == 0.5 and left >= 1 else 1):
      rest = rng.random() < 0.12 and left != beats
      notes.append((length, None if rest else int(rng.choice((-3, -2, -1, 0, 1, 2, 3)))))
      left -= length
  return notes


def _nearest(pitches: list[int], at: int) -> int:
  return min(pitches, key=lambda p: (abs(p - at), p))


def _sing(motif: Motif, tones: list[int], scale: list[int], at: int) -> tuple[str, int]:
  """A motif over a chord in mma's notation, "4cn;8d#+;...", and the pitch it ends on.

  Pitches count semitones from the C of the octave. The first note, and each that is long, is
  the nearest tone of the chord.
  """
  notes = []
  for i, (length, step) in enumerate(motif):
    symbol = _SYMBOLS[length]
    if step is None:
      notes.append(f"{symbol}r")
      continue
    place = scale.index(_nearest(scale, at)) + step
    at = scale[min(max(place, 0), len(scale) - 1)]
    if i == 0 or length == 2:
      at = _nearest(tones, at)
    octave = "+" if at >= 12 else "-" if at < 0 else ""
    notes.append(f"{symbol}{_SHARPS[at % 12]}{octave}")
  return ";".join(notes) + ";", at


def _pitches(degrees: tuple[int, ...], root: int) -> list[int]:
  return [p for p in range(-5, 17) if (p - root) % 12 in degrees]


def compose(name: str, groove: Groove, chord_voice: str = "", lead: str = "") -> Piece:
  """Writes the piece called `name` over `groove`.

  Args:
    name: seeds every choice.
    groove: accompaniment.
    chord_voice: mma voice that takes over the chord tracks; "" keeps the groove's own.
    lead: mma voice that plays a melody; "" for none.
  """
  rng = generator(name)
  tonic = int(rng.integers(12))
  mode = "minor" if rng.random() < 0.42 else "major"
  slowest, fastest = STYLES[groove.style].tempo
  tempo = int(rng.integers(slowest, fastest + 1))
  counted = round(tempo * groove.beats / groove.felt_beats)
  bars = max(4, int(PIECE_SECONDS * counted / 60 / groove.beats))
  chords = _progression(rng, groove.style, mode)
  scale = _pitches(_SCALES[mode], tonic)
  lines = [f"Tempo {counted}"]
  lines += (
    [f"Time {groove.beats}", groove.definition] if groove.definition else [f"Groove {groove.name}"]
  )
  lines += [f"{track} Voice {chord_voice}" for track in groove.chord_tracks if chord_voice]
  if lead:
    lines += [f"Solo Voice {lead}", f"Solo Octave {LEAD_VOICES[lead]}", "Solo Volume f"]
    lines += ["Solo Articulate 90", "Solo Harmony None"]
  at = int(rng.choice(scale))
  form = str(rng.choice(_FORMS))
  motifs = {letter: _motif(rng, groove.beats) for letter in "ABC"}
  for bar in range(bars):
    degree, quality = chords[bar % len(chords)]
    root = (tonic + degree) % 12
    melody = ""
    if bar and bar % 16 == 0:  # a second part, whose last phrase is remembered from the first
      motifs |= {letter: _motif(rng, groove.beats) for letter in "AB"}
    if lead and bar and not (bar % 4 == 3 and rng.random() < 0.3):
      tones = _pitches(_CHORD_TONES[quality], root)
      bar_text, at = _sing(motifs[form[bar % 4]], tones, scale, at)
      melody = f" {{{bar_text}}}"
    lines.append(f"{bar + 1} {KEYS[root]}{quality}{melody}")
  score = "\n".join(lines) + "\n"
  return Piece(score, KEYS[tonic], mode, tempo, groove.metre, chord_voice, lead)
