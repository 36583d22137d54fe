"""The grooves that the installed `mma` carries."""

import dataclasses
import functools
import json
import pathlib
import re
import subprocess

from data.rendered.styles import STYLES
from data.rendered.synthesis import require_program
from melody_jax.errors import UserError

LIBRARY = pathlib.Path("/usr/share/mma/lib/stdlib")
# Grooves that are not music one would loop: openings, endings, fills, count-ins.
_SKIP = re.compile(r"intro|end(ing)?\d*$|fill|metronome|^none$|hit\d*$|break", re.IGNORECASE)
# (beats as mma counts them, signature in the file) -> (metre, felt beats a bar)
_METRES = {
  (4, "4/4"): ("4/4", 4), (3, "3/4"): ("3/4", 3), (5, "5/4"): ("5/4", 5), (3, "4/4"): ("3/4", 3),
  (2, "6/8"): ("6/8", 2), (6, "6/8"): ("6/8", 2), (3, "6/8"): ("6/8", 2), (4, "12/8"): ("12/8", 4),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Groove:
  """One groove.

  Attributes:
    name: as mma knows it ("BossaNovaSus").
    style: stem of its library file ("bossanova").
    description: the author's words.
    beats: beats in a bar as mma counts them; the tempo it is given counts those.
    felt_beats: beats in a bar as a listener counts them.
    metre: "4/4", or "" where the library contradicts itself.
    chord_tracks: names of the tracks whose instrument may be replaced.
    voices: the instruments it asks for, in mma's spelling, lower case.
    definition: mma text that makes it; "" for a groove of the library.
    leads: instruments that may play a melody over it; empty: any.
    lead_share: how often there is a melody, 0 to 1.
  """

  name: str
  style: str
  description: str
  beats: int
  felt_beats: int
  metre: str
  chord_tracks: tuple[str, ...]
  voices: frozenset[str]
  definition: str = ""
  leads: tuple[str, ...] = ()
  lead_share: float = 0.5


def _first(pattern: str, text: str, default: str) -> str:
  match = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
  return match.group(1) if match else default


def _library_file(path: pathlib.Path) -> list[Groove]:
  command = [require_program("mma", "mma"), "-Djs", str(path)]
  listing = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
  text = path.read_text(errors="replace")
  beats = int(_first(r"^\s*Time\s+(\d+)", text, "4"))
  signature = _first(r"^\s*Timesig\s+(\d+[ /\t]+\d+)", text, "4/4")
  metre, felt = _METRES.get((beats, "/".join(re.findall(r"\d+", signature))), ("", beats))
  grooves = []
  for entry in json.loads(listing[listing.index("[") :]):
    tracks = entry.get("tracks", [])
    if _SKIP.search(entry["groove"]) or not tracks:
      continue
    chords = tuple(t["track"] for t in tracks if t["track"].split("-")[0] == "CHORD")
    voices = frozenset(v.lower() for t in tracks for v in t["voice"])
    description = " ".join(entry["description"].replace("``", '"').replace("''", '"').split())
    grooves.append(
      Groove(entry["groove"], path.stem, description, beats, felt, metre, chords, voices)
    )
  return grooves


@functools.cache
def library_grooves(library: pathlib.Path = LIBRARY) -> dict[str, tuple[Groove, ...]]:
  """Maps every style of the library to its grooves; UserError if mma's library is not installed."""
  if not library.is_dir():
    raise UserError(f"no groove library at {library}: apt-get install mma")
  paths = {stem: library / f"{stem}.mma" for stem in STYLES}
  found = {stem: tuple(_library_file(path)) for stem, path in paths.items() if path.exists()}
  return {stem: grooves for stem, grooves in found.items() if grooves}
