"""Programs that are run on a file: whose fault is it that one failed?"""

import pathlib
import signal

from melody_jax.errors import UserError

# Signals by which a program falls over its input. All others are sent to it from outside.
_OWN_SIGNALS = frozenset((
  signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP,
))  # fmt: skip


def check_not_killed(status: int, program: str, path: pathlib.Path) -> None:
  """Tells a program that was killed from one that failed.

  Args:
    status: Its exit status, as `subprocess` gives it.
    program: Its name.
    path: File that it worked on.

  Raises:
    UserError: The program was killed from outside, so the file is not to blame.
  """
  if status < 0 and -status not in _OWN_SIGNALS:
    raise UserError(
      f"{program} was killed by signal {-status} while it read {path}: is there enough memory?"
    )
