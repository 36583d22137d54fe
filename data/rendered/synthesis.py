"""Runs `mma` and `fluidsynth`, finds the soundfonts; one clear line where a package is missing."""

import os
import pathlib
import shutil
import subprocess

import librosa
import numpy as np

from data.tracks import SAMPLE_RATE, QuarantineError
from melody_jax.errors import UserError

TRAIN_SOUNDFONT = ("FluidR3_GM.sf2", "fluid-soundfont-gm")
HELD_OUT_SOUNDFONT = ("TimGM6mb.sf2", "timgm6mb-soundfont")
_SOUNDFONT_DIRS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts")
_GAIN = "0.6"


def require_program(program: str, package: str) -> str:
  """Returns the path of `program`; UserError naming the Debian package if it is missing."""
  found = shutil.which(program)
  if not found:
    raise UserError(f"{program} is not installed: apt-get install {package}")
  return found


def soundfont(name: str, package: str) -> pathlib.Path:
  """Finds a soundfont, installed or in $SOUNDFONTS; UserError naming its package if missing."""
  for folder in (os.environ.get("SOUNDFONTS", ""), *_SOUNDFONT_DIRS):
    path = pathlib.Path(folder or ".") / name
    if folder and path.exists():
      return path
  raise UserError(f"soundfont {name} is not installed: apt-get install {package}")


def run_mma(source: pathlib.Path, midi: pathlib.Path) -> None:
  """Compiles an mma score to a MIDI file; QuarantineError if mma rejects it."""
  command = [require_program("mma", "mma"), "-w", str(source), "-f", str(midi)]
  result = subprocess.run(command, capture_output=True, text=True, errors="replace")
  if result.returncode or not midi.exists():
    raise QuarantineError("corrupt", f"mma: {(result.stdout + result.stderr).strip()[-200:]}")


def render(midi: pathlib.Path, wav: pathlib.Path, font: pathlib.Path) -> np.ndarray:
  """Plays a MIDI file with a soundfont; mono float32 [samples] at 24 kHz."""
  program = require_program("fluidsynth", "fluidsynth")
  command = [
    program,
    "-q",
    "-ni",
    "-g",
    _GAIN,
    "-r",
    str(SAMPLE_RATE),
    "-F",
    str(wav),
    str(font),
    str(midi),
  ]
  result = subprocess.run(command, capture_output=True, text=True, errors="replace")
  if result.returncode or not wav.exists():
    raise QuarantineError(
      "corrupt", f"fluidsynth: {(result.stdout + result.stderr).strip()[-200:]}"
    )
  audio, _ = librosa.load(wav, sr=None, mono=True)
  return audio
