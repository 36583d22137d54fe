"""Standard output and standard error, as a shell may hand them over: closed, full, ASCII only."""

from collections.abc import Iterator
import contextlib
import os
import sys
from typing import Any

from melody_jax.errors import UserError


class _Wrapped:
  """A text stream with writing of its own; all else is the stream's.

  Args:
    stream: The stream that is written to.
  """

  def __init__(self, stream: Any):
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


class Forgiving(_Wrapped):
  """A text stream that loses what it cannot write: progress must never end the work."""

  def write(self, text: str) -> int:
    """Writes, or not; returns the number of characters either way."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Flushes, or not."""
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()


class StdoutError(OSError):
  """What the system said when standard output was written to."""


class Results(_Wrapped):
  """Standard output whose trouble can be told from that of a file."""

  def write(self, text: str) -> int:
    """Writes; raises StdoutError where that cannot be done."""
    with stdout_errors():
      return self._stream.write(text)

  def flush(self) -> None:
    """Flushes; raises StdoutError where that cannot be done."""
    with stdout_errors():
      self._stream.flush()


@contextlib.contextmanager
def stdout_errors() -> Iterator[None]:
  """Turns what the block's writing to standard output raises into StdoutError."""
  try:
    yield
  except StdoutError:
    raise
  except OSError as error:
    raise StdoutError(error.errno, error.strerror) from error


@contextlib.contextmanager
def prepared() -> Iterator[None]:
  """Makes the standard streams safe to write to while the block runs.

  Where one of the three is closed, the next file that is opened would get its number, and be
  written into by mistake. So a closed one gets the null device. Letters that the terminal's
  encoding lacks are written as escapes.
  """
  for number in (0, 1, 2):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
  before, results = sys.stderr, sys.stdout
  if results is not None:
    sys.stdout = Results(results)  # type: ignore[assignment]
  # `print(file=None)` would go to standard output, which is for results.
  sys.stderr = Forgiving(before) if before is not None else open(os.devnull, "w")  # type: ignore[assignment]
  try:
    yield
  finally:
    if before is None:
      sys.stderr.close()
    else:
      try:
        before.flush()
      except (OSError, ValueError):
        abandon(before)
    sys.stderr, sys.stdout = before, results


def check_stdout(what: str) -> None:
  """Refuses a closed standard output where it would be the only place of a result.

  Args:
    what: The result, for the message.

  Raises:
    UserError: if standard output is closed.
  """
  if sys.stdout is None:
    raise UserError(f"standard output is closed, where {what} would go: open it, or name a file")


def flush_stdout() -> None:
  """Writes out what is still held back; raises StdoutError where that cannot be done."""
  if sys.stdout is not None:
    sys.stdout.flush()


def abandon(stream: Any) -> None:
  """Drops what a stream holds back; Python would complain about it at the very end."""
  with contextlib.suppress(OSError, ValueError, AttributeError):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
