"""How much memory this process has resident, over a stretch of its work. Linux only."""

import pathlib

import numpy as np


class ResidentMemory:
  """Of this process, in MiB, as Linux tells it, since the last `restart`."""

  def __init__(self):
    self.restart()

  def restart(self) -> None:
    """Forgets what was."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    self._readings: list[float] = []

  def read(self) -> None:
    """One more reading, between two pieces of the work."""
    self._readings.append(self._status("VmRSS"))

  @property
  def held(self) -> float:
    """Between pieces: the median reading."""
    return float(np.median(self._readings))

  @property
  def peak(self) -> float:
    """The most at any moment, inside a piece too; the kernel keeps it."""
    return self._status("VmHWM")

  @staticmethod
  def _status(key: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
