"""Progress of long work: one callback, told a line at a time, under one name everywhere."""

from collections.abc import Callable
import sys
import time
from typing import Any

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


def bar(total: int, name: str, unit: str, shown: bool = True) -> Any:
  """A tqdm bar on standard error: how much is done, how fast it goes, how long it will take.

  Args:
    total: Number of things to do.
    name: What is being done, in front of the bar.
    unit: One of the things.
    shown: False: nothing is printed.
  """
  # Late: this page is imported by everything, a bar is shown by few.
  from tqdm import tqdm

  # A terminal is drawn over; a log gets a line every ten seconds.
  return tqdm(
    total=total, desc=name, unit=unit, disable=not shown, file=sys.stderr,
    mininterval=0.5 if sys.stderr is not None and sys.stderr.isatty() else 10,
  )  # fmt: skip
