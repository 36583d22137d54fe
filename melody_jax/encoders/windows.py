"""Windows that cover a long sequence, overlapping so that no kept position lies near a cut."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np


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
  """Windows of equal `length` over n positions; one window of n where it is not longer.

  The kept ranges follow each other without gaps, and every kept position has `context`
  positions of its window on either side, or lies nearer to the sequence's own end.

  Args:
    n: Number of positions.
    length: Length of a window, more than 2 * context.
    context: Number of positions on either side that are read and not kept.

  Raises:
    ValueError: if a longer sequence must be cut and the context fills a window.
  """
  if n <= length:
    return [Span(0, 0, n)]
  if length <= 2 * context:
    raise ValueError(f"{n} positions cannot be covered by windows of {length}, context {context}")
  windows, done = [], 0
  while done < n:
    # The last window is moved back rather than cut: all have one length and share one program.
    start = min(max(done - context, 0), n - length)
    # The last window keeps all to the end: there nothing lies beyond it that it would have to hear.
    end = n if start + length == n else start + length - context
    windows.append(Span(start, done, end))
    done = end
  return windows


def map_windows(
  function: Callable[[np.ndarray, int], Any],
  x_NxX: np.ndarray,
  length: int,
  context: int,
  hop_in: int = 1,
  hop_out: int = 1,
) -> np.ndarray:
  """Applies a function to overlapping windows of one length, and joins what is kept of them.

  Where the context covers the reach of the function, the result equals one long pass.

  Args:
    function: (window [1, length * hop_in, ...], its first frame) -> [1, length * hop_out, ...].
    x_NxX: Sequence [N, ...]; its end is filled up with zeros to whole frames, and to one window.
    length: Frames of a window.
    context: Frames at either side of a window that are made and dropped.
    hop_in: Positions of `x_NxX` in a frame.
    hop_out: Positions of the result in a frame.

  Returns:
    float [frames * hop_out, ...], what was made of the filling included.
  """
  # One window at least, filled up: short and long sequences are the same program.
  n_frames = max(-(-len(x_NxX) // hop_in), length)
  filling = ((0, n_frames * hop_in - len(x_NxX)),) + ((0, 0),) * (x_NxX.ndim - 1)
  x_NxX = np.pad(x_NxX, filling)
  pieces = []
  for w in overlapping_windows(n_frames, length, context):
    made = function(x_NxX[None, w.start * hop_in : (w.start + length) * hop_in], w.start)
    kept = slice((w.begin - w.start) * hop_out, (w.end - w.start) * hop_out)
    pieces.append(np.asarray(made)[0, kept])
  return np.concatenate(pieces)
