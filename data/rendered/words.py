"""Captions of rendered music. All they state is known from the score and the MIDI file.

Mood words say no more than the mode does: "bright" for major, "dark" for minor.
"""

import re

import numpy as np

from data.captions import article, distinct, join_words, tempo_word, tidy
from data.rendered.midi import MidiFacts
from data.tracks import Description

_KEY_NAMES = {"Db": "D flat", "Eb": "E flat", "F#": "F sharp", "Ab": "A flat", "Bb": "B flat"}
# Many style names contain "slow" or "fast". A caption should not say it twice.
_TEMPO_IN_NAME = re.compile(r"\b(slow|fast)\b")
# Descriptions with these words speak to users of the library, not about the sound.
_CHATTY = re.compile(
  r"annoying|boring|corny|http|variation|same as|our |basic|odd|ya |you |use |above|below|original"
  r"|pattern|version|change|groove|main|not ",
  re.IGNORECASE,
)


def key_name(key: str, mode: str) -> str:
  """Name of a key in words: ("Eb", "minor") -> "E flat minor"."""
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


def _short_captions(
  rng: np.random.Generator,
  style: str,
  paced: str,
  company: str,
  first_player: str,
  mode: str,
  bpm: str,
) -> list[str]:
  """Two of four short captions, some of them with the mood of the mode."""
  # Seldom: mode alone does not make music bright or dark, but prompts ask for it in these words.
  moods = {"major": "bright", "minor": "dark"} if rng.random() < 0.3 else {}
  mood = moods.get(mode, "")
  short = [
    f"{paced} {company}",
    f"{paced}, {first_player}",
    paced,
    f"{style}, {mode + ' key, ' if mode else ''}{bpm}",
  ]
  drawn = [short[i] for i in rng.permutation(len(short))[:2]]
  return [tidy(f"{mood} {text}".strip()).lower() if mood else text for text in drawn]


def _remark(style: str, note: str) -> str:
  """The author's note as a caption, or "" where it is long or does not describe the sound."""
  if not note or len(note) > 90 or _CHATTY.search(note):
    return ""
  note = note.rstrip(".")
  return f"{tidy(style)}: {note[:1].lower()}{note[1:]}" if note else ""


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
  """Writes caption variants and tags of one clip.

  Args:
    rng: Source of the random choices.
    style: English name of the style ("bossa nova").
    tags: Tags of the style.
    midi: What the MIDI file plays.
    tempo: Beats per minute, as a listener counts them.
    lead: Name of the melody instrument for a listener, or "".
    key, mode, metre: Key, mode and metre; "" where unknown.
    note: Description of the groove by its author. It is used only if it describes the sound.
  """
  pace = "" if _TEMPO_IN_NAME.search(style) else tempo_word(tempo)
  paced = f"{pace} {style}".strip()
  accompaniment = [name for name in midi.instruments if name != lead]
  # One to three of them, the busiest first: a prompt names a few instruments, not a score.
  band = accompaniment[: int(rng.integers(1, 4))]
  drums = ["drums"] if midi.drums else []
  bpm = f"{round(tempo)} bpm"
  in_key = f"in {key_name(key, mode)}" if key else ""
  in_metre = f"in {metre} time" if metre and not re.search(r"\d/\d", style) else ""
  with_band = f"with {join_words(band + (drums if rng.random() < 0.6 else []))}" if band else ""
  with_lead = f"with {article(lead)} melody" if lead else ""
  over = f"over {join_words(band)}" if band else ""
  sentence = " ".join([article(paced), with_lead or with_band, over if with_lead else ""])
  # The long caption has it all; what a short prompt leaves out, another variant says.
  players = join_words(([lead] if lead else []) + accompaniment[:3] + drums)
  second = f"{tidy(style)} {in_key} at {bpm}, {in_metre}, played by {players}"
  company, first_player = with_lead or with_band, lead or (accompaniment or ["drums"])[0]
  short = _short_captions(rng, style, paced, company, first_player, mode, bpm)
  words = _tags(tags, lead, accompaniment, drums, tempo, mode)
  listed = [words[i] for i in rng.permutation(len(words))[: int(rng.integers(3, 7))]]
  # Key and tempo come and go, so that a model learns each and depends on neither.
  extras = [in_key if rng.random() < 0.5 else "", bpm if rng.random() < 0.5 else ""]
  captions = [
    tidy(", ".join([sentence, *extras]).replace(", ,", ","), True),
    tidy(re.sub(r"(, )+", ", ", second), True),
    *short,
    ", ".join(listed),
    _remark(style, note),
  ]
  return Description(
    distinct([re.sub(r"\s+", " ", c).replace(" ,", ",").strip(" ,") for c in captions]), words
  )
