"""Runs `mma` and `fluidsynth`, and finds the soundfonts.

If a program or soundfont is missing, the error names the package that has it.
"""

import os
import pathlib
import shutil
import subprocess

import numpy as np

from data.tracks import QuarantineError
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.errors import UserError
from melody_jax.host import decoding
from melody_jax.host.programs import check_not_killed

# (file, Debian package). Two sets of recorded instruments: the second tests whether a model knows
# instruments or only the samples of the first.
TRAIN_SOUNDFONT = ("FluidR3_GM.sf2", "fluid-soundfont-gm")
HELD_OUT_SOUNDFONT = ("TimGM6mb.sf2", "timgm6mb-soundfont")
_SOUNDFONT_DIRS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts")
# A MIDI file of one note: a header, and a track of twelve bytes.
_ONE_NOTE = bytes.fromhex("4d546864000000060000000100604d54726b0000000c00903c4060803c4000ff2f00")
_ONE_CHORD = "Tempo 120\nChord Sequence {1 4 90}\n1 C\n"  # a score for mma
_GAIN = "0.6"  # factor; records are normalised afterwards, it only has to avoid clipping


def require_program(program: str, package: str) -> str:
  """Finds an installed program.

  Args:
    program: Name of the command.
    package: Debian package that has it, for the error.

  Returns:
    Path of the program.

  Raises:
    UserError: The program is not installed.
  """
  found = shutil.which(program)
  if not found:
    raise UserError(f"{program} is not installed: apt-get install {package}")
  return found


def soundfont(name: str, package: str) -> pathlib.Path:
  """Finds a soundfont in $SOUNDFONTS or where Debian installs them.

  Args:
    name: File name.
    package: Debian package that has it, for the error.

  Raises:
    UserError: The soundfont is not installed.
  """
  for folder in (os.environ.get("SOUNDFONTS", ""), *_SOUNDFONT_DIRS):
    path = pathlib.Path(folder or ".") / name
    if folder and path.exists():
      return path
  raise UserError(f"soundfont {name} is not installed: apt-get install {package}")


def run_mma(source: pathlib.Path, midi: pathlib.Path) -> None:
  """Compiles an mma score to a MIDI file.

  Args:
    source: Score, a text file.
    midi: File to write.

  Raises:
    QuarantineError: mma rejects the score.
    UserError: mma is not installed, was killed, or rejects any score.
  """
  failed = _mma(source, midi)
  if failed is not None:
    known_good = midi.with_name("known-good.mma")  # where a disk may be full
    known_good.write_text(_ONE_CHORD)
    _check_works("mma", _mma(known_good, known_good.with_suffix(".mid")))
    raise QuarantineError("corrupt", f"mma: {failed}")


def _mma(source: pathlib.Path, midi: pathlib.Path) -> str | None:
  return _run([require_program("mma", "mma"), "-w", str(source), "-f", str(midi)], source, midi)


def _run(command: list[str], source: pathlib.Path, made: pathlib.Path) -> str | None:
  """Runs a program that makes a file. None, or what it said if it failed."""
  result = subprocess.run(command, capture_output=True, text=True, errors="replace")
  check_not_killed(result.returncode, pathlib.Path(command[0]).name, source)
  if result.returncode or not made.exists() or not made.stat().st_size:
    return (result.stdout + result.stderr).strip()[-200:] or f"status {result.returncode}"
  return None


def _check_works(program: str, failed: str | None) -> None:
  """Raises UserError if a program failed even at what is known to be good: no file is to blame."""
  if failed is not None:
    raise UserError(f"{program} does not work here: {failed}")


def render(midi: pathlib.Path, wav: pathlib.Path, font: pathlib.Path) -> np.ndarray:
  """Plays a MIDI file with a soundfont.

  Args:
    midi: MIDI file.
    wav: File to write on the way.
    font: Soundfont.

  Returns:
    Mono waveform at 24 kHz, float32 [samples].

  Raises:
    QuarantineError: fluidsynth rejects the file.
    UserError: fluidsynth is not installed, was killed, rejects any file, or what it wrote is not
      whole.
  """
  failed = _fluidsynth(midi, wav, font)
  if failed is not None:
    known_good = wav.with_name("known-good.mid")
    known_good.write_bytes(_ONE_NOTE)
    _check_works("fluidsynth", _fluidsynth(known_good, known_good.with_suffix(".wav"), font))
    raise QuarantineError("corrupt", f"fluidsynth: {failed}")
  try:
    return decoding.read(wav).audio
  except decoding.DamagedAudio as damaged:
    # It is fresh from the program: the disk did not take it.
    raise UserError(
      f"fluidsynth's {wav} is damaged ({damaged.detail}): is the disk full?"
    ) from damaged


def _fluidsynth(midi: pathlib.Path, wav: pathlib.Path, font: pathlib.Path) -> str | None:
  program = require_program("fluidsynth", "fluidsynth")
  command = [
    program,
    "-q",
    # No shell and no MIDI input: it renders and ends.
    "-ni",
    "-g",
    _GAIN,
    # Of a font of 142 MB a piece needs a few instruments; the sound is the same, bit for bit.
    "-o",
    "synth.dynamic-sample-loading=1",
    "-r",
    str(SAMPLE_RATE),
    "-F",
    str(wav),
    str(font),
    str(midi),
  ]
  return _run(command, midi, wav)
