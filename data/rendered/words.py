"""Captions of rendered music: true by construction; a mood word says no more than the mode."""

import re

import numpy as np

from data.captions import article, distinct, join_words, tempo_word, tidy
from data.rendered.midi import MidiFacts
from data.tracks import Description

_KEY_NAMES = {"Db": "D flat", "Eb": "E flat", "F#": "F sharp", "Ab": "A flat", "Bb": "B flat"}
# Slow and fast are in many style names already; a caption should not say them twice.
_TEMPO_IN_NAME = re.compile(r"\b(slow|fast)\b")
# Groove descriptions that talk to the user of the library rather than about the music.
_CHATTY = re.compile(
  r"annoying|boring|corny|http|variation|same as|our |basic|odd|ya |you |use |above|below|original"
  r"|pattern|version|change|groove|main|not ",
  re.IGNORECASE,
)


def key_name(key: str, mode: str) -> str:
  """("Eb", "minor") -> "E flat minor"."""
  return f"{_KEY_NAMES.get(key, key)} {mode}"


def _tags(
  style: tuple[str, ...],
  lead: str,
  accompaniment: list[str],
  drums: list[str],
  tempo: float,
  mode: str,
) -> list[str]:
  tags = [*style, *([lead] if lead else []), *accompaniment[:4], *drums, tempo_word(tempo)]
  tags += [f"{mode} key"] if mode else []
  return list(dict.fromkeys(tags))


def describe_piece(
  rng: np.random.Generator,
  style: str,
  tags: tuple[str, ...],
  midi: MidiFacts,
  tempo: float,
  lead: str = "",
  key: str = "",
  mode: str = "",
  metre: str = "",
  note: str = "",
) -> Description:
  """Writes caption variants and tags.

  Args:
    rng: chooses templates and which facts each variant mentions.
    style: English name of the style ("bossa nova").
    tags: raw style tags.
    midi: what the file really plays.
    tempo: felt beats per minute.
    lead: listener's name of the melody instrument, or "".
    key, mode, metre: "" where unknown.
    note: the groove author's description; used where it describes the sound.
  """
  pace = "" if _TEMPO_IN_NAME.search(style) else tempo_word(tempo)
  paced = f"{pace} {style}".strip()
  accompaniment = [name for name in midi.instruments if name != lead]
  band = accompaniment[: int(rng.integers(1, 4))]
  drums = ["drums"] if midi.drums else []
  bpm = f"{round(tempo)} bpm"
  in_key = f"in {key_name(key, mode)}" if key else ""
  in_metre = f"in {metre} time" if metre and not re.search(r"\d/\d", style) else ""
  with_band = f"with {join_words(band + (drums if rng.random() < 0.6 else []))}" if band else ""
  with_lead = f"with {article(lead)} melody" if lead else ""
  over = f"over {join_words(band)}" if band else ""
  sentence = " ".join([article(paced), with_lead or with_band, over if with_lead else ""])
  players = join_words(([lead] if lead else []) + accompaniment[:3] + drums)
  second = f"{tidy(style)} {in_key} at {bpm}, {in_metre}, played by {players}"
  moods = {"major": "bright", "minor": "dark"} if rng.random() < 0.3 else {}
  mood = moods.get(mode, "")
  short = [
    f"{paced} {with_lead or with_band}",
    f"{paced}, {lead or (accompaniment or ['drums'])[0]}",
    paced,
    f"{style}, {mode + ' key, ' if mode else ''}{bpm}",
  ]
  drawn = [short[i] for i in rng.permutation(len(short))[:2]]
  remark = "" if not note or len(note) > 90 or _CHATTY.search(note) else note.rstrip(".")
  remark = f"{tidy(style)}: {remark[:1].lower()}{remark[1:]}" if remark else ""
  words = _tags(tags, lead, accompaniment, drums, tempo, mode)
  listed = [words[i] for i in rng.permutation(len(words))[: int(rng.integers(3, 7))]]
  extras = [in_key if rng.random() < 0.5 else "", bpm if rng.random() < 0.5 else ""]
  captions = [
    tidy(", ".join([sentence, *extras]).replace(", ,", ","), True),
    tidy(re.sub(r"(, )+", ", ", second), True),
    *(tidy(f"{mood} {text}".strip()).lower() if mood else text for text in drawn),
    ", ".join(listed),
    remark,
  ]
  return Description(
    distinct([re.sub(r"\s+", " ", c).replace(" ,", ",").strip(" ,") for c in captions]), words
  )
