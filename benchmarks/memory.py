"""The resident memory of this process over a stretch of its work. Linux only."""

import pathlib

import numpy as np


class ResidentMemory:
  """Resident memory of this process in MiB since the last `restart`, as Linux reports it."""

  def __init__(self):
    self.restart()

  def restart(self) -> None:
    """Forgets all readings and the peak."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    self._readings: list[float] = []

  def read(self) -> None:
    """Takes a reading; call it between two pieces of the work."""
    self._readings.append(self._status("VmRSS"))

  @property
  def held(self) -> float:
    """Memory held between pieces of the work: the median reading."""
    return float(np.median(self._readings))

  @property
  def peak(self) -> float:
    """The largest value at any moment, also inside a piece of the work; the kernel keeps it."""
    return self._status("VmHWM")

  @staticmethod
  def _status(key: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
