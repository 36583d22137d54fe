"""General MIDI program numbers (from 0) of the mma instruments that a piece may use."""

from data.rendered.midi import PROGRAMS

VOICE_PROGRAMS = {
  "Piano1": 0,
  "RhodesPiano": 4,
  "HarpsiChord": 6,
  "Celesta": 8,
  "Glockenspiel": 9,
  "MusicBox": 10,
  "Vibraphone": 11,
  "Marimba": 12,
  "Organ1": 16,
  "ChurchOrgan": 19,
  "Accordion": 21,
  "Harmonica": 22,
  "Bandoneon": 23,
  "NylonGuitar": 24,
  "SteelGuitar": 25,
  "JazzGuitar": 26,
  "CleanGuitar": 27,
  "DistortionGuitar": 30,
  "Violin": 40,
  "Cello": 42,
  "PizzicatoString": 45,
  "OrchestralHarp": 46,
  "Strings": 48,
  "SynthStrings1": 50,
  "ChoirAahs": 52,
  "Trumpet": 56,
  "Trombone": 57,
  "MutedTrumpet": 59,
  "FrenchHorn": 60,
  "BrassSection": 61,
  "AltoSax": 65,
  "TenorSax": 66,
  "Oboe": 68,
  "Clarinet": 71,
  "Flute": 73,
  "Recorder": 74,
  "PanFlute": 75,
  "Whistle": 78,
  "SquareWave": 80,
  "SawWave": 81,
  "WarmPad": 89,
  "PolySynth": 90,
  "Sitar": 104,
  "Banjo": 105,
  "Koto": 107,
  "Kalimba": 108,
  "Fiddle": 110,
  "SteelDrums": 114,
}


def listener_name(voice: str) -> str:
  """Name of an instrument for a listener: "NylonGuitar" -> "nylon guitar", "" -> "".

  Args:
    voice: Key of `VOICE_PROGRAMS`, or "".
  """
  return PROGRAMS[VOICE_PROGRAMS[voice]] if voice else ""
