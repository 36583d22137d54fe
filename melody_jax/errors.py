"""The exception that ends a command with a single line, its kind for unknown names, and checks."""

from collections.abc import Iterable
import difflib
import numbers


class UserError(Exception):
  """Bad input: the message says what was wrong, where, and what to do.

  `melody_jax.cli.run` prints it as one line on standard error and exits with
  status 2; library callers catch it like any exception.
  """


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
  """Refuses a value that is none of the known names.

  Args:
    name: Name of the option, as the user writes it.
    value: Value that the user gave.
    known: Names that the option takes.

  Raises:
    UserError: if `value` is not among `known`.
  """
  names = tuple(known)
  if value not in names:
    raise ChoiceError(name, value, names)


class ChoiceError(UserError):
  """A value that is none of the known names.

  Attributes:
    known: Names that the option takes.
  """

  def __init__(self, name: str, value: object, known: tuple[str, ...]):
    super().__init__(
      f"{name} is {value!r}; it must be one of {', '.join(known)}{nearest(value, known)}"
    )
    self._value, self._name, self.known = value, name, known

  def __reduce__(self):
    # A process of a pool hands its errors on in writing.
    return ChoiceError, (self._name, self._value, self.known)


def nearest(value: object, known: Iterable[str]) -> str:
  """': did you mean ...?' where one of the names is near to what was written; else empty."""
  names = [str(name) for name in known]
  found = difflib.get_close_matches(str(value).strip().lower(), names, n=1, cutoff=0.6)
  return f": did you mean {found[0]!r}?" if found else ""


def check_range(name: str, value: float, low: float, high: float, unit: str = "") -> None:
  """Refuses a number outside its range.

  Args:
    name: Name of the option, as the user writes it.
    value: Number that the user gave.
    low: Smallest number that the option takes.
    high: Largest number that the option takes; infinity for no limit.
    unit: What is counted or measured, for the message; "" leaves it out.

  Raises:
    UserError: if `value` is out of range or is no number (NaN).
  """
  # Written so that NaN, which compares false with everything, is refused; infinity is no number
  # to compute with, even where there is no limit.
  if isinstance(value, numbers.Real) and low <= value <= high and value != float("inf"):
    return
  takes = f"{_limit(low)} or more" if high == float("inf") else f"{_limit(low)} to {_limit(high)}"
  raise UserError(f"{name} is {_plain(value)}; it takes {takes}" + (f" ({unit})" if unit else ""))


def _plain(value: object) -> str:
  """A number as people write it; anything else with its quotes."""
  return f"{value:g}" if isinstance(value, float) else repr(value)


def _limit(value: float) -> str:
  """A limit in full: 4294967295, which :g would round."""
  return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:g}"
