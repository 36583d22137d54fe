"""The one exception that ends a command with a single line, and the two checks that raise it."""

from collections.abc import Iterable
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
    raise UserError(f"{name} is {value!r}; it must be one of {', '.join(names)}")


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
  takes = f"{_plain(low)} or more" if high == float("inf") else f"{_plain(low)} to {_plain(high)}"
  raise UserError(f"{name} is {_plain(value)}; it takes {takes}" + (f" ({unit})" if unit else ""))


def _plain(value: object) -> str:
  """A number as people write it; anything else with its quotes."""
  return f"{value:g}" if isinstance(value, float) else repr(value)
