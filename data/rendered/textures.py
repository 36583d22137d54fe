"""Sparse arrangements that the groove library lacks: one instrument alone, or a plain beat.

The grooves of the library are whole bands. Prompts such as "solo piano", "choir" or "slow ambient"
need music in which nothing else sounds. Each texture here is a few mma tracks of our own.
"""

from data.rendered.grooves import Groove

_METRE = ("4/4", 4)

# The tracks of one arrangement in mma's language, and its instruments in lower case.
Variant = tuple[tuple[str, ...], frozenset[str]]


def _track(name: str, voice: str, octave: int, sequence: str, articulate: int = 100) -> str:
  """Writes one mma track. A drum track has a `Tone` in place of a voice."""
  if name.startswith("Drum"):
    body = f" Tone {voice}\n Sequence {{{sequence}}}\n"
  else:
    body = f" Voice {voice}\n Octave {octave}\n Articulate {articulate}\n Sequence {{{sequence}}}\n"
  # Small random changes of time and loudness: exactly equal notes sound like a machine.
  return f"Begin {name}\n{body} RTime 4\n RVolume 12\nEnd"


def _every(step: float, rest: str, start: float = 1.0) -> str:
  """Repeats the event `rest` every `step` beats of a bar of four, from beat `start` on."""
  # A bar of four lasts from beat 1 up to beat 5.
  count = int((5.0 - start) / step)
  return "; ".join(f"{start + i * step:g} {rest}" for i in range(count))


# mma's events are "beat length volume"; in the bass, "beat length degree volume".
_HELD = "1 1 80"
_HALVES = _every(2, "2 80")
_BROKEN = _every(0.5, "8 75")
_ROOTS = "1 1 1 75"

# Broken chords over a low root, slow chords over it, or both at once.
_SOLO_PATTERNS = (
  lambda voice: (
    _track("Arpeggio-Solo", voice, 5, _BROKEN),
    _track("Bass-Solo", voice, 3, _ROOTS),
  ),
  lambda voice: (
    _track("Chord-Solo", voice, 5, _HALVES),
    _track("Bass-Solo", voice, 3, _every(2, "2 1 80")),
  ),
  lambda voice: (
    _track("Arpeggio-Solo", voice, 5, _every(1, "4 75")),
    _track("Chord-Solo", voice, 4, _HELD),
    _track("Bass-Solo", voice, 3, _ROOTS),
  ),
)


def _solo(voice: str) -> list[Variant]:
  return [(pattern(voice), frozenset({voice.lower()})) for pattern in _SOLO_PATTERNS]


def _held(voice: str, low: str, octave: int = 4) -> list[Variant]:
  voices = frozenset({voice.lower(), low.lower()})
  bass = _track("Bass-Low", low, 3, _ROOTS)
  return [
    ((_track("Chord-Held", voice, octave, _HELD), bass), voices),
    ((_track("Chord-Held", voice, octave, _HALVES), bass), voices),
  ]


_KICK = _track("Drum-Kick", "KickDrum1", 0, _every(1, "0 110"))
_OFF_HAT = _track("Drum-Hat", "OpenHiHat", 0, _every(1, "0 65", 1.5))
_FAST_HAT = _track("Drum-Shut", "ClosedHiHat", 0, _every(0.25, "0 50"))
_CLAP = _track("Drum-Clap", "HandClap", 0, "2 0 90; 4 0 90")
_OFF_BASS = _track("Bass-Pulse", "SynthBass1", 3, _every(1, "8 1 95", 1.5), 60)
_RUN_BASS = _track("Bass-Run", "SynthBass2", 3, _every(0.25, "16 1 85"), 50)


def _synth(voice: str, sequence: str) -> str:
  return _track("Arpeggio-Synth", voice, 5, sequence, 60)


_TECHNO: list[Variant] = [
  (
    (_KICK, _OFF_HAT, _OFF_BASS, _synth("SawWave", _every(0.25, "16 65"))),
    frozenset({"sawwave", "synthbass1"}),
  ),
  (
    (_KICK, _CLAP, _FAST_HAT, _RUN_BASS, _track("Chord-Pad", "PolySynth", 5, _HELD)),
    frozenset({"polysynth", "synthbass2"}),
  ),
  (
    (_KICK, _CLAP, _OFF_HAT, _RUN_BASS, _synth("SquareWave", _every(0.5, "8 70"))),
    frozenset({"squarewave", "synthbass2"}),
  ),
]

_SNARE = _track("Drum-Snare", "SnareDrum1", 0, "2 0 100; 4 0 100")
_RIDE = _track("Drum-Shut", "ClosedHiHat", 0, _every(0.5, "0 70"))
_FUNKY_KICK = _track("Drum-Kick", "KickDrum1", 0, "1 0 110; 2.75 0 90; 3.5 0 105")
_ROCK_KICK = _track("Drum-Kick", "KickDrum1", 0, "1 0 110; 3 0 105; 3.5 0 90")


def _bass_line(voice: str, sequence: str) -> str:
  return _track("Bass-Line", voice, 3, sequence, 70)


_DRUMS_AND_BASS: list[Variant] = [
  ((kick, _SNARE, _RIDE, _bass_line(voice, line)), frozenset({voice.lower()}))
  for kick, voice, line in (
    (_ROCK_KICK, "FingeredBass", _every(0.5, "8 1 90")),
    (_FUNKY_KICK, "SlapBass1", "1 8 1 95; 1.75 16 1 80; 2.5 8 5 90; 3.5 8 1 95; 4.5 8 5 80"),
    (_FUNKY_KICK, "PickedBass", "1 4 1 95; 2.5 8 3 85; 3 4 5 90; 4.5 8 1 85"),
  )
]

# style: (variants, instruments that may play a melody, share of the pieces that have one)
_TABLE: dict[str, tuple[list[Variant], tuple[str, ...], float]] = {
  "texture-piano": (_solo("Piano1"), ("Piano1",), 0.7),
  "texture-guitar": (_solo("NylonGuitar") + _solo("SteelGuitar"), ("NylonGuitar",), 0.3),
  "texture-strings": (
    _held("Strings", "Strings") + _held("Strings", "Cello", 5),
    ("Violin", "Cello"),
    0.5,
  ),
  "texture-choir": (_held("ChoirAahs", "ChoirAahs"), ("ChoirAahs",), 0.6),
  "texture-ambient": (
    _held("WarmPad", "WarmPad") + _held("SynthStrings1", "WarmPad"),
    ("PanFlute", "Vibraphone"),
    0.2,
  ),
  "texture-organ": (_held("ChurchOrgan", "ChurchOrgan"), ("Organ1",), 0.3),
  "texture-harp": (_solo("OrchestralHarp"), (), 0.0),
  "texture-flute": (
    _held("Strings", "Strings") + _solo("OrchestralHarp")[:2] + _solo("Piano1")[:2],
    ("Flute",),
    1.0,
  ),
  "texture-techno": (_TECHNO, ("SawWave", "SquareWave"), 0.3),
  "texture-drumsbass": (_DRUMS_AND_BASS, (), 0.0),
}


def textures() -> dict[str, tuple[Groove, ...]]:
  """Maps each texture (a key of `styles.STYLES`) to its variants as grooves."""
  metre, beats = _METRE
  return {
    stem: tuple(
      Groove(
        f"{stem}-{i}",
        stem,
        "",
        beats,
        beats,
        metre,
        (),
        voices,
        "\n".join(tracks),
        leads,
        share,
      )
      for i, (tracks, voices) in enumerate(variants)
    )
    for stem, (variants, leads, share) in _TABLE.items()
  }
