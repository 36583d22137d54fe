"""Composes short pieces over a groove: key, mode, tempo, chords, instruments and a melody.

The name of a piece decides every choice, so a piece is the same on every machine.
"""

import dataclasses
import hashlib

import numpy as np

from data.rendered.grooves import Groove
from data.rendered.styles import STYLES

KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_SHARPS = ("cn", "c#", "dn", "d#", "en", "fn", "f#", "gn", "g#", "an", "a#", "bn")
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Just under the 30 s of a record, so that the last notes have time to die away.
PIECE_SECONDS = 29.0

# Instruments, in mma's names, that may take over the chords of a groove.
CHORD_VOICES = (
  "Piano1", "RhodesPiano", "HarpsiChord", "Vibraphone", "Marimba", "Organ1", "ChurchOrgan",
  "Accordion", "Bandoneon", "NylonGuitar", "SteelGuitar", "JazzGuitar", "CleanGuitar",
  "DistortionGuitar", "Strings", "PizzicatoString", "OrchestralHarp", "ChoirAahs",
  "BrassSection", "SynthStrings1", "WarmPad", "PolySynth", "Banjo", "Sitar", "Koto", "SteelDrums",
  "MusicBox", "Celesta",
)  # fmt: skip
# Instruments that may play the melody, each with an octave in its natural range.
LEAD_VOICES = {
  "Flute": 5, "Clarinet": 4, "Oboe": 5, "AltoSax": 4, "TenorSax": 4, "Trumpet": 4,
  "MutedTrumpet": 4, "Trombone": 3, "FrenchHorn": 4, "Violin": 5, "Cello": 3, "Harmonica": 5,
  "PanFlute": 5, "Recorder": 5, "Piano1": 5, "Vibraphone": 5, "Marimba": 5, "NylonGuitar": 4,
  "JazzGuitar": 4, "DistortionGuitar": 4, "Organ1": 5, "Accordion": 5, "SawWave": 5,
  "SquareWave": 5, "Fiddle": 5, "Whistle": 6, "Glockenspiel": 6, "Kalimba": 5, "ChoirAahs": 4,
}  # fmt: skip

# Progressions, one chord a bar: (semitones above the tonic, kind of chord in mma's notation).
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
# The twelve bars of the blues: the form itself, so there is one for each mode.
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
class Composition:
  """One composed piece.

  Attributes:
    score: Source text for mma.
    key, mode: Key and mode, such as "Eb" and "minor".
    tempo: Beats per minute, as a listener counts them.
    metre: Metre, such as "3/4"; "" if not certain.
    chord_voice, lead: Instruments of chords and melody in mma's names; "" if none was chosen.
  """

  score: str
  key: str
  mode: str
  tempo: int
  metre: str
  chord_voice: str
  lead: str


def generator(name: str) -> np.random.Generator:
  """Random generator that depends on a name only."""
  # Not Python's own hash: that one changes from process to process.
  return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def _progression(rng: np.random.Generator, style: str, mode: str) -> tuple[tuple[int, str], ...]:
  tags = STYLES[style].tags
  # Not always the chords that a style is known for: a model should not take one for the other.
  if "blues" in tags or "boogie-woogie" in tags:
    table = _BLUES if rng.random() < 0.7 else _PLAIN
  elif {"jazz", "swing", "bossa nova", "latin", "soul", "r&b", "fusion"} & set(tags):
    table = _JAZZ if rng.random() < 0.75 else _PLAIN
  else:
    table = _PLAIN
  choices = table[mode]
  first = choices[rng.integers(len(choices))]
  # Two phrases of four bars before anything repeats; the twelve bars of the blues are long enough.
  return first if len(first) > 8 else first + choices[rng.integers(len(choices))]


# A motif is one bar of melody. Each note is (length in beats, steps along the scale from the note
# before); None in place of steps is a rest. Motifs return over other chords: a melody without
# repeats sounds random.
Motif = list[tuple[float, int | None]]
_SYMBOLS = {2: "2", 1: "4", 0.5: "8"}
_FORMS = ("ABAC", "AABC", "ABAB", "AABA")


def _motif(rng: np.random.Generator, beats: int) -> Motif:
  notes: Motif = []
  left = float(beats)
  while left > 0:
    length = float(rng.choice((2.0, 1.0, 0.5), p=(0.25, 0.5, 0.25)))
    length = min(length, 1.0 if left >= 1 else 0.5) if length > left else length
    # Eighth notes come in pairs. A single one would move all later notes off the beat.
    for _ in range(2 if length == 0.5 and left >= 1 else 1):
      rest = rng.random() < 0.12 and left != beats
      notes.append((length, None if rest else int(rng.choice((-3, -2, -1, 0, 1, 2, 3)))))
      left -= length
  return notes


def _nearest(pitches: list[int], at: int) -> int:
  return min(pitches, key=lambda p: (abs(p - at), p))


def _sing(motif: Motif, tones: list[int], scale: list[int], at: int) -> tuple[str, int]:
  """Fits a motif to a chord.

  The first note and every long note move to the nearest tone of the chord.

  Args:
    motif: The motif.
    tones: Pitches of the chord, in semitones from the C of the octave.
    scale: Pitches of the key, in the same units.
    at: Pitch of the note before.

  Returns:
    (the notes as mma writes them, "4cn;8d#+;...", and the pitch of the last note).
  """
  notes = []
  for i, (length, step) in enumerate(motif):
    symbol = _SYMBOLS[length]
    if step is None:
      notes.append(f"{symbol}r")
      continue
    # Along the scale, so that a step means the same in every key and mode.
    place = scale.index(_nearest(scale, at)) + step
    at = scale[min(max(place, 0), len(scale) - 1)]
    # Where the ear rests the note belongs to the chord; notes in passing need not.
    if i == 0 or length == 2:
      at = _nearest(tones, at)
    octave = "+" if at >= 12 else "-" if at < 0 else ""
    # mma writes an octave as a sign beside the note: "+" above, "-" below that of the voice.
    notes.append(f"{symbol}{_SHARPS[at % 12]}{octave}")
  return ";".join(notes) + ";", at


def _pitches(degrees: tuple[int, ...], root: int) -> list[int]:
  return [p for p in range(-5, 17) if (p - root) % 12 in degrees]


def compose(name: str, groove: Groove, chord_voice: str = "", lead: str = "") -> Composition:
  """Composes the piece called `name` over a groove.

  Args:
    name: Name of the piece. It decides every random choice.
    groove: Groove of the accompaniment.
    chord_voice: Instrument, in mma's name, for the chord tracks; "" keeps those of the groove.
    lead: Instrument, in mma's name, for a melody; "" for no melody.
  """
  # One stream for all choices, drawn in a fixed order: a new choice goes to the end, or every piece
  # changes.
  rng = generator(name)
  tonic = int(rng.integers(12))
  mode = "minor" if rng.random() < 0.42 else "major"
  slowest, fastest = STYLES[groove.style].tempo
  # Within what the style is danced or played at: the caption's tempo word then fits the style.
  tempo = int(rng.integers(slowest, fastest + 1))
  # mma may count a bar of 6/8 as three beats or as six where a listener hears two.
  counted = round(tempo * groove.beats / groove.felt_beats)
  bars = max(4, int(PIECE_SECONDS * counted / 60 / groove.beats))
  chords = _progression(rng, groove.style, mode)
  scale = _pitches(_SCALES[mode], tonic)
  # mma counts its own beats, captions the listener's: the two differ in 6/8 and 12/8.
  lines = [f"Tempo {counted}"]
  lines += (
    [f"Time {groove.beats}", groove.definition] if groove.definition else [f"Groove {groove.name}"]
  )
  lines += [f"{track} Voice {chord_voice}" for track in groove.chord_tracks if chord_voice]
  if lead:
    lines += [f"Solo Voice {lead}", f"Solo Octave {LEAD_VOICES[lead]}", "Solo Volume f"]
    # No second voice: a caption names one instrument for the melody.
    lines += ["Solo Articulate 90", "Solo Harmony None"]
  # The tune begins anywhere in the scale; its first long note finds the chord.
  at = int(rng.choice(scale))
  form = str(rng.choice(_FORMS))
  motifs = {letter: _motif(rng, groove.beats) for letter in "ABC"}
  for bar in range(bars):
    degree, quality = chords[bar % len(chords)]
    root = (tonic + degree) % 12
    melody = ""
    if bar and bar % 16 == 0:  # a second part; motif C stays and ties it to the first
      motifs |= {letter: _motif(rng, groove.beats) for letter in "AB"}
    # No melody in the first bar and at some ends of phrases: a tune needs pauses.
    if lead and bar and not (bar % 4 == 3 and rng.random() < 0.3):
      tones = _pitches(_CHORD_TONES[quality], root)
      bar_text, at = _sing(motifs[form[bar % 4]], tones, scale, at)
      melody = f" {{{bar_text}}}"
    lines.append(f"{bar + 1} {KEYS[root]}{quality}{melody}")
  score = "\n".join(lines) + "\n"
  return Composition(score, KEYS[tonic], mode, tempo, groove.metre, chord_voice, lead)
