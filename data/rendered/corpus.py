"""The rendered corpus: which pieces there are, in which split, and how one is made.

Training never hears 12 styles, one instrument in each style, one soundfont, and any version of a
test piece. Each test record says in `held_out` which of these it tests.
"""

import functools
import hashlib
import math
import pathlib
import tempfile
from typing import Any

import numpy as np

from data.rendered.composition import CHORD_VOICES, LEAD_VOICES, Composition, compose, generator
from data.rendered.grooves import Groove, library_grooves
from data.rendered.midi import MidiFacts, read_facts
from data.rendered.styles import STYLES
from data.rendered.synthesis import HELD_OUT_SOUNDFONT, TRAIN_SOUNDFONT, render, run_mma, soundfont
from data.rendered.textures import textures
from data.rendered.voices import listener_name
from data.rendered.words import describe_piece
from data.splits import TEST, TRAIN, VALIDATION, assign_splits
from data.tracks import MAX_SECONDS, Description, QuarantineError, Track
from melody_jax.audio_io import SAMPLE_RATE

HELD_OUT_STYLES = (
  "bluefolk", "bwmarch", "calypso", "descendingjazz", "fastjazzwaltz", "hillcountry",
  "jazzrhumba", "lighttango", "popspiritual", "rockwaltz", "ska", "slowbroadway",
)  # fmt: skip
"""Styles for testing only. No model hears a piece of them in training."""

MIDI_PACKAGE = "openttd-openmsx"
# Pieces of a texture for each piece of another style, unless told otherwise. Only the ten textures
# have one instrument alone; with equal shares the 101 styles of whole bands would drown them.
TEXTURE_SHARE = 4
# Shortest mean length of a piece to reckon with: 1,692 of them had 29.95 s on average, 27.1 s the
# shortest.
_PIECE_SECONDS = 29.9
_GPL = "GPL-2"
_FADE = SAMPLE_RATE // 2  # samples; a cut without a fade is heard as a click


@functools.cache
def catalogue() -> dict[str, tuple[Groove, ...]]:
  """Maps every style to its grooves: those of mma's library, and the sparse textures.

  Raises:
    UserError: mma or its library is not installed.
  """
  return library_grooves() | textures()


def _hash(text: str) -> int:
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def held_out_voice(style: str) -> str:
  """Chord instrument, in mma's name, that training never combines with `style`."""
  native = frozenset().union(*(groove.voices for groove in catalogue()[style]))
  # An instrument of the style's own grooves cannot be kept out of training.
  foreign = [voice for voice in CHORD_VOICES if voice.lower() not in native]
  # The smallest hash: a fixed choice that no list has to record.
  return min(foreign, key=lambda voice: _hash(f"{style} x {voice}"))


def pieces_for(hours: int, texture_share: int = TEXTURE_SHARE) -> int:
  """Pieces of a style that give at least so many hours of composed training music together."""
  shares = sum(
    texture_share if s in textures() else 1 for s in catalogue() if s not in HELD_OUT_STYLES
  )
  return math.ceil(hours * 3600 / (_PIECE_SECONDS * shares))


class RenderedCorpus:
  """Corpus of composed pieces in every style, and of the MIDI files of openttd-openmsx.

  Args:
    midi_files: {path inside the package: file}: MIDI files to render besides.
    per_style: Number of training pieces of a style. Validation gets three tenths of this number.
    texture_share: Training pieces of a texture for each piece of another style.

  Attributes:
    notes: Lines on what was found.
  """

  name = "rendered"
  splits = (TRAIN, VALIDATION, TEST)
  origin = ""

  def __init__(
    self,
    midi_files: dict[str, pathlib.Path],
    per_style: int = 10,
    texture_share: int = TEXTURE_SHARE,
  ):
    self._midi_files = midi_files
    self._per_style = per_style
    self._texture_share = texture_share
    self.notes: list[str] = []
    # What `load` made, for `describe`: a composed piece if it is one, and what its MIDI plays.
    self._current: tuple[tuple[Groove, Composition] | None, MidiFacts] | None = None

  def identity(self) -> None:
    """Nothing: all of it is in the tracks."""

  def tracks(self) -> list[Track]:
    """Lists the pieces of every style, then the MIDI files.

    Raises:
      UserError: mma, its library or a soundfont is not installed.
    """
    soundfont(*TRAIN_SOUNDFONT), soundfont(*HELD_OUT_SOUNDFONT)  # a missing one fails before work
    tracks = []
    for style in catalogue():
      counts = self._counts(style)
      for split, kind, count in counts:
        tracks += [self._track(style, split, kind, i) for i in range(count)]
    groups = assign_splits(list(self._midi_files))
    for path in sorted(self._midi_files):
      author = "Redfarn" if "redfarn" in path else "OpenMSX authors"
      tracks.append(
        Track(
          f"{MIDI_PACKAGE}/{path}",
          MIDI_PACKAGE,
          groups[path],
          pathlib.Path(path).stem,
          author,
          _GPL,
          f"Debian package {MIDI_PACKAGE}, rendered",
          self._midi_files[path],
        )
      )
    return tracks

  def _counts(self, style: str) -> list[tuple[str, str, int]]:
    # A held-out style has no other split, so it gets more pieces than a single test would.
    if style in HELD_OUT_STYLES:
      return [(TEST, "style", max(1, self._per_style * 6 // 10))]
    pieces = self._per_style * (self._texture_share if style in textures() else 1)
    validation = max(1, self._per_style * 3 // 10)
    return [
      (TRAIN, "piece", pieces),
      (VALIDATION, "piece", validation),
      (TEST, "soundfont", 1),
      # In every other style, drawn by its name: an instrument that is new to the style, not to the
      # model.
      (TEST, "pair", 1 if _hash(style) % 2 and self._replaceable(style) else 0),
    ]

  @staticmethod
  def _replaceable(style: str) -> bool:
    """Whether any groove of the style lets its chord instrument be replaced."""
    return any(groove.chord_tracks for groove in catalogue()[style])

  def _track(self, style: str, split: str, kind: str, i: int) -> Track:
    name = f"mma/{style}/{split}-{kind}-{i:03d}"
    return Track(
      name,
      f"mma-{style}",
      split,
      f"{style} {kind} {i}",
      "composed by the builder",
      "GPL-2+",
      "mma groove library, rendered",
    )

  def load(self, track: Track) -> np.ndarray:
    """Composes the piece (or takes the MIDI file), renders it, and cuts a piece to 30 s.

    Returns:
      Mono waveform at 24 kHz, float32 [samples], not yet normalised. A composed piece fades out
      over its last half second.

    Raises:
      QuarantineError: The MIDI file is damaged, or mma or fluidsynth rejects the piece.
      UserError: A program or soundfont is not installed.
    """
    held_font = self._held_out(track)
    font = soundfont(*(HELD_OUT_SOUNDFONT if "soundfont" in held_font else TRAIN_SOUNDFONT))
    with tempfile.TemporaryDirectory() as folder:
      midi = track.path or pathlib.Path(folder) / "piece.mid"
      composed = None
      if not track.path:
        composed = self._compose(track)
        score = pathlib.Path(folder) / "piece.mma"
        score.write_text(composed[1].score)
        run_mma(score, midi)
      # Captions state what the MIDI file plays. What was planned may differ.
      try:
        facts = read_facts(midi)
      except (ValueError, IndexError) as error:
        raise QuarantineError("corrupt", f"not a MIDI file: {error}") from error
      audio = render(midi, pathlib.Path(folder) / "piece.wav", font)
    self._current = (composed, facts)
    if composed:
      audio = audio[: MAX_SECONDS * SAMPLE_RATE].copy()
      audio[-_FADE:] *= np.linspace(1, 0, len(audio[-_FADE:]), dtype=audio.dtype)
    return audio

  def _compose(self, track: Track) -> tuple[Groove, Composition]:
    # A stream of its own: a change to the composer leaves every piece its instruments.
    rng = generator(f"{track.id} instruments")
    style, kind = track.id.split("/")[1], track.id.split("-")[1]
    grooves = catalogue()[style]
    groove = grooves[rng.integers(len(grooves))]
    forbidden = held_out_voice(style)
    allowed = [voice for voice in CHORD_VOICES if voice != forbidden]
    if kind == "pair":
      groove = next(g for g in (groove, *grooves) if g.chord_tracks)
      chord_voice = forbidden
    else:
      chord_voice = str(rng.choice(allowed)) if groove.chord_tracks and rng.random() < 0.5 else ""
    leads = [voice for voice in groove.leads or LEAD_VOICES if voice != forbidden]
    lead = str(rng.choice(leads)) if leads and rng.random() < groove.lead_share else ""
    return groove, compose(track.id, groove, chord_voice, lead)

  def _held_out(self, track: Track) -> list[str]:
    if track.split != TEST:
      return []
    if track.path:
      return ["piece", "soundfont"]
    kind, number = track.id.rsplit("/test-", 1)[1].split("-")
    if kind == "style":  # every other one also with the held-out soundfont
      return ["piece", "style"] + (["soundfont"] if int(number) % 2 else [])
    return ["piece", kind]

  def describe(self, track: Track, k: int, clip: np.ndarray) -> Description:
    """Writes captions from what was composed and what the MIDI file plays.

    Args:
      track: The track, the one that `load` made last.
      k: Number of the clip in the track.
      clip: Audio of the clip, float [samples]. Not used: nothing needs to be measured here.
    """
    assert self._current is not None  # the builder loads a track before it describes it
    composed, midi = self._current
    # By clip: each clip of a track gets other words, and the same ones in every build.
    rng = generator(f"{track.id} words {k}")
    if composed is None:
      words = describe_piece(
        rng, "video game tune", ("video game", "light", "retro"), midi, midi.tempo
      )
      facts: dict[str, Any] = {"tempo": round(midi.tempo)}
    else:
      groove, piece = composed
      style = STYLES[groove.style]
      lead = listener_name(piece.lead)
      words = describe_piece(
        rng,
        style.name,
        style.tags,
        midi,
        piece.tempo,
        # Promised only if the MIDI file plays it: a melody may have come out as rests.
        lead if lead in midi.instruments else "",
        piece.key,
        piece.mode,
        piece.metre,
        "" if piece.chord_voice else groove.description,
      )
      facts = {
        "style": style.name,
        "groove": groove.name,
        "key": piece.key,
        "mode": piece.mode,
        "tempo": piece.tempo,
        "metre": piece.metre,
      }
    facts |= {"instruments": list(midi.instruments), "held_out": self._held_out(track)}
    return Description(words.captions, words.tags, facts)
