"""Runs `mma` and `fluidsynth`, and finds the soundfonts.

If a program or soundfont is missing, the error names the package that has it.
"""

import os
import pathlib
import shutil
import subprocess

import librosa
import numpy as np

from data.tracks import QuarantineError
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.errors import UserError

# (file, Debian package). Two sets of recorded instruments: the second tests whether a model knows
# instruments or only the samples of the first.
TRAIN_SOUNDFONT = ("FluidR3_GM.sf2", "fluid-soundfont-gm")
HELD_OUT_SOUNDFONT = ("TimGM6mb.sf2", "timgm6mb-soundfont")
_SOUNDFONT_DIRS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts")
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
    UserError: mma is not installed.
  """
  command = [require_program("mma", "mma"), "-w", str(source), "-f", str(midi)]
  result = subprocess.run(command, capture_output=True, text=True, errors="replace")
  # A status of 0 alone does not say that there is a file.
  if result.returncode or not midi.exists():
    raise QuarantineError("corrupt", f"mma: {(result.stdout + result.stderr).strip()[-200:]}")


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
    UserError: fluidsynth is not installed.
  """
  program = require_program("fluidsynth", "fluidsynth")
  command = [
    program,
    "-q",
    # No shell and no MIDI input: it renders and ends.
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
  # fluidsynth writes stereo; models hear mono.
  audio, _ = librosa.load(wav, sr=None, mono=True)
  return audio
