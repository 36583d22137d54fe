"""Commands whose flags are fixed, of builders and benchmarks: argparse that speaks as all do."""

import argparse
from collections.abc import Callable
import pathlib
import sys
from typing import Any, NoReturn

from melody_jax.command_line.endings import check_text, decoded, one_line
from melody_jax.errors import UserError, nearest
from melody_jax.provenance import VERSION


class Parser(argparse.ArgumentParser):
  """A parser that ends in one line, as all commands do, and knows --version."""

  def __init__(self, description: str | None):
    super().__init__(description=description, allow_abbrev=False)
    self.add_argument("--version", action="version", version=f"melody_jax {VERSION}")

  def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
    """Parses; a flag that does not exist is told before one that is missing."""
    known = [flag for action in self._actions for flag in action.option_strings]
    for written in sys.argv[1:] if args is None else args:
      flag = written.partition("=")[0]
      if flag.startswith("--") and flag not in known:
        raise UserError(f"no flag {flag}{nearest(flag, known) or ': --help lists the flags'}")
    return super().parse_args(args, namespace)

  def error(self, message: str) -> NoReturn:
    """Raises UserError."""
    raise UserError(f"{message}; --help lists the flags")


def at_least_one(text: str) -> int:
  """A whole number of 1 or more, for flags that count something.

  Raises:
    argparse.ArgumentTypeError: saying what the flag takes.
  """
  try:
    number = int(text)
  except ValueError:
    number = 0
  if number < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is given; it takes a whole number, 1 or more")
  return number


def run(main: Callable[[], None]) -> None:
  """Entry point of a builder or a benchmark; errors end it as they end every command."""
  path = pathlib.Path(sys.argv[0])
  with one_line(path.parent.name if path.stem == "__main__" else path.stem):
    sys.argv[1:] = decoded(sys.argv[1:])
    check_text(sys.argv[1:])
    main()
