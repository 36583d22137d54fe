"""Windows that cover a long sequence, overlapping so that no kept position lies near a cut."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Span:
  """One window of a long sequence, and what of its result is kept.

  Attributes:
    start: First position that is read.
    begin: First position that is kept.
    end: Position after the last one that is kept.
  """

  start: int
  begin: int
  end: int


def overlapping_windows(n: int, length: int, context: int) -> list[Span]:
  """Windows of equal `length` over n >= length positions.

  The kept ranges follow each other without gaps, and every kept position has `context`
  positions of its window on either side, or lies nearer to the sequence's own end.

  Args:
    n: Number of positions.
    length: Length of a window, more than 2 * context.
    context: Number of positions on either side that are read and not kept.

  Raises:
    ValueError: if the sequence is shorter than a window, or the context fills a window.
  """
  if n < length or length <= 2 * context:
    raise ValueError(f"{n} positions cannot be covered by windows of {length}, context {context}")
  windows, done = [], 0
  while done < n:
    # The last window is moved back rather than cut: all have one length and share one program.
    start = min(max(done - context, 0), n - length)
    end = n if start + length == n else start + length - context
    windows.append(Span(start, done, end))
    done = end
  return windows
