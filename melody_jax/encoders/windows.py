"""Windows that cover a long sequence, overlapping so that no kept position lies near a cut."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Span:
  """Reads from `start` on; what it gives is kept in [begin, end)."""

  start: int
  begin: int
  end: int


def overlapping_windows(n: int, length: int, context: int) -> list[Span]:
  """Windows of equal `length` over n >= length positions.

  The kept ranges follow each other without gaps, and every kept position has `context`
  positions of its window on either side, or lies nearer to the sequence's own end.

  Args:
    n: positions.
    length: of a window, more than 2 * context.
    context: positions on either side that are read and not kept.
  """
  if n < length or length <= 2 * context:
    raise ValueError(f"{n} positions cannot be covered by windows of {length}, context {context}")
  windows, done = [], 0
  while done < n:
    start = min(max(done - context, 0), n - length)
    end = n if start + length == n else start + length - context
    windows.append(Span(start, done, end))
    done = end
  return windows
