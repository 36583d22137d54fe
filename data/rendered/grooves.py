"""The grooves of the installed accompaniment program `mma`."""

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
# Openings, endings, fills and count-ins: no music that could go on for half a minute.
_SKIP = re.compile(r"intro|end(ing)?\d*$|fill|metronome|^none$|hit\d*$|break", re.IGNORECASE)
# (beats as mma counts them, time signature in the file) -> (metre, beats a listener counts). Some
# library files contradict themselves. A pair that is not listed gets no metre in its captions.
_METRES = {
  (4, "4/4"): ("4/4", 4), (3, "3/4"): ("3/4", 3), (5, "5/4"): ("5/4", 5), (3, "4/4"): ("3/4", 3),
  (2, "6/8"): ("6/8", 2), (6, "6/8"): ("6/8", 2), (3, "6/8"): ("6/8", 2), (4, "12/8"): ("12/8", 4),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Groove:
  """One groove, a pattern of accompaniment.

  Attributes:
    name: Name in mma ("BossaNovaSus").
    style: Name of its library file without suffix ("bossanova").
    description: Description by its author.
    beats: Beats in a bar, as mma counts them. The tempo given to mma counts these.
    felt_beats: Beats in a bar, as a listener counts them.
    metre: Metre such as "4/4"; "" where the library contradicts itself.
    chord_tracks: Names of the tracks whose instrument may be replaced.
    voices: Instruments of the groove, in mma's names, lower case.
    definition: mma text that defines the groove; "" for a groove of the library.
    leads: Instruments that may play a melody over it. Empty means any.
    lead_share: Share of the pieces that have a melody, from 0 to 1.
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
  # -Djs: mma lists the grooves of a file as JSON, with tracks and voices that it works out itself.
  command = [require_program("mma", "mma"), "-Djs", str(path)]
  listing = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
  text = path.read_text(errors="replace")
  beats = int(_first(r"^\s*Time\s+(\d+)", text, "4"))
  signature = _first(r"^\s*Timesig\s+(\d+[ /\t]+\d+)", text, "4/4")
  # Not listed: no metre is claimed, and beats are felt as they are counted.
  metre, felt = _METRES.get((beats, "/".join(re.findall(r"\d+", signature))), ("", beats))
  grooves = []
  # mma may print warnings first; the JSON begins at the bracket.
  for entry in json.loads(listing[listing.index("[") :]):
    tracks = entry.get("tracks", [])
    if _SKIP.search(entry["groove"]) or not tracks:
      continue
    # Only chords change their instrument: a bass or a drum kit played by a flute is no longer the
    # style.
    chords = tuple(t["track"] for t in tracks if t["track"].split("-")[0] == "CHORD")
    voices = frozenset(v.lower() for t in tracks for v in t["voice"])
    # TeX quotes and line breaks of the library's authors.
    description = " ".join(entry["description"].replace("``", '"').replace("''", '"').split())
    grooves.append(
      Groove(entry["groove"], path.stem, description, beats, felt, metre, chords, voices)
    )
  return grooves


@functools.cache
def library_grooves(library: pathlib.Path = LIBRARY) -> dict[str, tuple[Groove, ...]]:
  """Reads the groove library.

  Args:
    library: Directory of mma's standard library.

  Returns:
    {style: its grooves}. A style of which no groove is usable is left out.

  Raises:
    UserError: mma or its library is not installed.
  """
  if not library.is_dir():
    raise UserError(f"no groove library at {library}: apt-get install mma")
  paths = {stem: library / f"{stem}.mma" for stem in STYLES}
  found = {stem: tuple(_library_file(path)) for stem, path in paths.items() if path.exists()}
  return {stem: grooves for stem, grooves in found.items() if grooves}
