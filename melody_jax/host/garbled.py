"""Sound that is bytes read in the wrong way: noise at full scale, to be told from noise in music.

Two kinds of evidence count, and loud noise alone is none:

- Some other reading of the same bytes (another width or byte order, a byte further on) gives a
  waveform whose neighbouring samples are alike, where the header's reading gives white noise. Noise
  stays noise, however it is read.
- A stretch in the midst of other sound has every value of full scale equally often, each
  independent of its neighbours: what bytes of something else sound like. Noise in music is
  filtered, shaped, mixed or mastered, which shows, or swells, or comes again; then it is told only.
"""

from collections.abc import Callable, Iterator
import dataclasses

import numpy as np

_ROW = 1024  # samples, channels counted, that are judged together
_LOUD = 0.02  # mean square; all that is garbled is louder
# Five standard deviations of these means over a row of independent uniform samples.
_UNIFORM_POWERS = ((1, 1 / 2, 0.045), (2, 1 / 3, 0.047), (4, 1 / 5, 0.042))
_UNCORRELATED = 0.16
_PEAK = 0.985  # of a row of uniform samples, nearly always
_CLIPPED = 0.02  # share of samples at the peak: clipped sound has more
_BINS, _MOST_CHI_SQUARE = 16, 44.0  # of 15 degrees of freedom: one row of chance in ten thousand
_MIN_UNIFORM = 3  # rows
_GAP = 5  # rows between stretches of their own
_NEAR = 8  # rows beside a stretch that are looked at
_FROM_END_TO_END = 0.9  # share of the loud rows
# Rows that may be garbled, where neighbours are as unlike as this, or sound leaps or is hollow: few
# samples between two levels.
_UNLIKE, _LEAP, _LEAPS = 0.5, 1.5, 0.005
_HOLLOW, _HOLLOW_SHARE = (0.01, 0.25), 0.01
_MIN_ODD, _MIN_ODD_SHARE = 8, 0.05
_WINDOWS, _WINDOW = 12, 4096  # places that are read in other ways; frames
_SMOOTHER, _SMOOTH = 0.25, 0.5  # part of the old unlikeness that is left; the most of it
_AGREEING = 2 / 3  # share of the places
_LEVELS = 8  # samples of a few levels only are smooth in many readings

# (first frame, frames) -> int32 [frames, channels], the sample in the upper bits.
Ints = Callable[[int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What was found.

  Attributes:
    fault: Why the file cannot be used; "" where it can.
    note: What its user should know; "" for nothing.
  """

  fault: str = ""
  note: str = ""


class Watch:
  """Looks at a file's samples as they are decoded."""

  def __init__(self) -> None:
    self._frames = 0
    self._loud = 0
    self._uniform: list[tuple[int, int]] = []  # first frame, frames
    self._odd: list[int] = []  # first frames

  def see(self, block: np.ndarray) -> None:
    """Takes the next samples of the file, [frames, channels] in [-1, 1]."""
    channels = block.shape[1]
    frames = max(_ROW // channels, 64)
    n = len(block) // frames
    rows = np.ascontiguousarray(block[: n * frames], np.float32).reshape(n, frames * channels)
    starts = self._frames + frames * np.arange(n)
    self._frames += len(block)
    power = np.einsum("ij,ij->i", rows, rows) / max(1, rows.shape[1])
    loud = power > _LOUD
    if not loud.any():
      return
    rows, starts, power = rows[loud], starts[loud], power[loud]
    self._loud += len(rows)
    uniform = _are_uniform(rows, power, channels)
    self._uniform += [(int(start), frames) for start in starts[uniform]]
    self._odd += [int(start) for start in starts[_are_odd(rows, power, channels)]]

  def verdict(self, rate: int, ints: Ints | None = None, width: int = 0) -> Verdict:
    """Judges what was seen.

    Args:
      rate: Frames a second.
      ints: Reads samples anew as integers; None where the file stores none.
      width: Bytes of a sample.
    """
    worth_it = len(self._odd) >= max(_MIN_ODD, _MIN_ODD_SHARE * self._loud)
    better = _better_reading(self._odd, ints, width) if worth_it and ints is not None else ""
    if better:
      return Verdict(
        f"its header states integers of {8 * width} bits, as which it is noise; the same bytes are"
        f" sound as {better}"
      )
    if len(self._uniform) < _MIN_UNIFORM:
      return Verdict()
    seconds = sum(frames for _, frames in self._uniform) / rate
    starts = np.array([start for start, _ in self._uniform])
    runs = 1 + int((np.diff(starts) > _GAP * self._uniform[0][1]).sum())
    where = f"{seconds:.2g} s of it, from {starts[0] / rate:.1f} s on, are"
    if len(starts) >= _FROM_END_TO_END * self._loud:
      where = "all of it is"
    elif runs == 1 and not self._swells(int(starts[0]), int(starts[-1]), self._uniform[0][1]):
      return Verdict(f"{where} random numbers at full scale, as bytes of something else are")
    # A song may have bursts of such noise, and a library of sounds files of it.
    return Verdict(
      note=f"{where} white noise at full scale: if that is not meant, the file is damaged"
    )

  def _swells(self, first: int, last: int, frames: int) -> bool:
    """Whether something like noise stands before or behind a stretch of rows, as in a riser."""
    near = _NEAR * frames
    # The rows right beside it may hold its ends.
    before = sum(first - near <= odd < first - frames for odd in self._odd)
    behind = sum(last + frames < odd <= last + near for odd in self._odd)
    return max(before, behind) > _NEAR // 2


def _lag_products(rows: np.ndarray, lag: int) -> np.ndarray:
  return np.einsum("ij,ij->i", rows[:, lag:], rows[:, :-lag]) / (rows.shape[1] - lag)


def _are_uniform(rows: np.ndarray, power: np.ndarray, channels: int) -> np.ndarray:
  """Which rows could be independent samples, all values of full scale equally likely: bool [n]."""
  found = np.abs(power - 1 / 3) < _UNIFORM_POWERS[1][2]
  for index in np.flatnonzero(found):
    row = rows[index : index + 1]
    size = np.abs(row)
    counts = np.histogram(row, _BINS, (-1.0, 1.0))[0]
    usual = row.size / _BINS
    found[index] = (
      size.max() > _PEAK
      and (size >= 0.999 * size.max()).mean() < _CLIPPED
      and all(abs(float(np.mean(size**k)) - mean) < off for k, mean, off in _UNIFORM_POWERS)
      and float(np.square(counts - usual).sum()) / usual < _MOST_CHI_SQUARE
      and all(
        abs(float(_lag_products(row, lag)[0])) < _UNCORRELATED / 3
        for lag in {1, 2, channels, 2 * channels}
      )
    )
  return found


def _are_odd(rows: np.ndarray, power: np.ndarray, channels: int) -> np.ndarray:
  """Which rows are worth another reading: bool [n]."""
  unlike = _lag_products(rows, channels) < (1 - _UNLIKE) * power
  size = np.abs(rows)
  leaps = np.abs(rows[:, channels:] - rows[:, :-channels]) > _LEAP
  hollow = (size > _HOLLOW[0]) & (size < _HOLLOW[1])
  return unlike | (leaps.mean(axis=1) > _LEAPS) | (hollow.mean(axis=1) < _HOLLOW_SHARE)


def _unlikeness(samples: np.ndarray, channels: int) -> float:
  """Mean square between neighbours over that between any two samples: 0 smooth, 1 white.

  That of the worst channel: a frame may hold a good sample and a bad one.
  """
  each = samples[: len(samples) // channels * channels].reshape(-1, channels).astype(np.float64)
  spread = 2 * each.var(axis=0)
  if not spread.all():
    return 1.0
  return float((np.square(np.diff(each, axis=0)).mean(axis=0) / spread).max())


def _readings(data: bytes, stated: int) -> Iterator[tuple[str, np.ndarray]]:
  """Samples that bytes may stand for, each way with its name.

  Args:
    data: Bytes as the file has them.
    stated: Bytes of a sample by its header.
  """
  for width in (1, 2, 3, 4):
    for offset in range(width):
      whole = np.frombuffer(data[offset:], np.uint8)
      parts = whole[: len(whole) // width * width].reshape(-1, width)
      for ordered in (parts, parts[:, ::-1]) if width > 1 else (parts,):
        # To the top of 32 bits, least byte first.
        words = np.zeros((len(parts), 4), np.uint8)
        words[:, 4 - width :] = ordered
        unsigned = words.view("<u4")[:, 0]
        name = "signed integers of " + (
          f"{8 * width} bits" if width != stated else "that width with their bytes in another place"
        )
        yield name, unsigned.view("<i4")
        yield f"un{name}", (unsigned ^ np.uint32(1 << 31)).view("<i4")
        if width == 4:
          as_float = unsigned.view("<f4")
          if np.isfinite(as_float).all() and np.abs(as_float).max(initial=0) < 10:
            yield "floating point of 32 bits", as_float


def _better_reading(places: list[int], ints: Ints, width: int) -> str:
  """How the bytes make sound at most of some of these places; "" if in no other way than stated."""
  chosen = [places[i] for i in np.unique(np.linspace(0, len(places) - 1, _WINDOWS).astype(int))]
  votes: dict[str, list[float]] = {}
  for place in chosen:
    words = ints(place, _WINDOW)
    channels = words.shape[1]
    limit = min(_SMOOTHER * _unlikeness(words.ravel(), channels), _SMOOTH)
    little = words.astype("<i4").ravel().view(np.uint8).reshape(-1, 4)[:, 4 - width :]
    found: dict[str, float] = {}
    # As files of either byte order have them; those of single bytes may count from 0 or from -128.
    for packed in (little, little ^ 0x80) if width == 1 else (little, little[:, ::-1]):
      for name, samples in _readings(packed.tobytes(), width):
        unlike = _unlikeness(samples, channels)
        if unlike < found.get(name, limit) and len(np.unique(samples)) > _LEVELS:
          found[name] = unlike
    for name, unlike in found.items():
      votes.setdefault(name, []).append(unlike)
  # The most votes, and the smoothest among equals.
  winner = max(votes, key=lambda name: (len(votes[name]), -sum(votes[name])), default="")
  return winner if winner and len(votes[winner]) >= _AGREEING * len(chosen) else ""
