"""Resident memory: a peak is seen though it is over by the next reading; a restart forgets it."""

import numpy as np

from benchmarks.memory import ResidentMemory

MIB = 2**20


def touch(mebibytes: int) -> int:
  """Takes so much memory, writes to all of it, and gives it back."""
  return int(np.ones(mebibytes * MIB, np.uint8)[-1])


def test_peak_holds_scratch_that_readings_miss():
  memory = ResidentMemory()
  memory.read()
  before = memory.held
  touch(256)
  memory.read()
  memory.read()
  assert memory.peak > before + 200
  assert memory.held < before + 100


def test_restart_forgets_the_peak():
  memory = ResidentMemory()
  touch(256)
  high = memory.peak
  memory.restart()
  assert memory.peak < high - 100


def test_kept_memory_is_held():
  memory = ResidentMemory()
  memory.read()
  before = memory.held
  kept = np.ones(256 * MIB, np.uint8)
  memory.restart()
  memory.read()
  assert memory.held > before + 200
  assert kept[-1] == 1
