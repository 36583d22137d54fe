"""Progress of long work: one callback, told a line at a time, under one name everywhere."""

from collections.abc import Callable
import sys
import time

# Takes one line for people; parameters of this kind are called `progress`.
Progress = Callable[[str], None]


def silent(line: str) -> None:
  """Tells nobody."""
  del line


def print_progress(line: str) -> None:
  """Prints a line on standard error: standard output is for results."""
  print(line, file=sys.stderr, flush=True)


class TimedProgress:
  """Prints lines on standard error, each with the seconds since the beginning."""

  def __init__(self):
    self._start = time.monotonic()

  def __call__(self, line: str) -> None:
    print_progress(f"[{time.monotonic() - self._start:5.1f} s] {line}")
