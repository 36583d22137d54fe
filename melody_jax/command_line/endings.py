"""What a command's error comes to: one line for what its user can mend, a traceback for a bug."""

from collections.abc import Iterable, Iterator
import contextlib
import errno
import os
import pathlib
import signal
import sys
import traceback
from typing import NoReturn

from melody_jax.command_line import signals, streams
from melody_jax.errors import UserError, nearest

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = signals.EXIT_SIGNAL + signal.SIGINT  # 130
EXIT_PIPE = signals.EXIT_SIGNAL + 13  # SIGPIPE, which Windows lacks: the reader went away

_PLATFORMS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}  # value of JAX_PLATFORMS -> extra
_PCI, _GOOGLE = pathlib.Path("/sys/bus/pci/devices"), "0x1ae0"  # TPU chips are devices of Google
_REMEDIES = {
  errno.ENOSPC: "free some space, or write elsewhere",
  errno.EDQUOT: "free some space, or write elsewhere",
  errno.EFBIG: "the system allows no larger file (ulimit -f): raise that, or write elsewhere",
  errno.EROFS: "write elsewhere",
  errno.EACCES: "check its permissions, or name another one",
  errno.EPERM: "check its permissions, or name another one",
  errno.ENOENT: "check the path",
  errno.EMFILE: "raise the limit of open files (ulimit -n)",
  errno.ENFILE: "close other programs",
  errno.ENAMETOOLONG: "shorten it",
}


def fail(program: str, message: str, status: int = EXIT_BAD_INPUT) -> NoReturn:
  """Prints one line on standard error and ends the command."""
  print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
  raise SystemExit(status)


def decoded(arguments: Iterable[str]) -> list[str]:
  """Arguments as the UTF-8 that they are, where the shell's locale is said to be another.

  In the locale "C" Python takes every byte beyond ASCII for no letter.

  Args:
    arguments: Arguments as Python has them in sys.argv.
  """
  found = []
  for argument in arguments:
    with contextlib.suppress(UnicodeError):  # told by `check_text`
      argument = os.fsencode(argument).decode("utf-8")
    found.append(argument)
  return found


def check_text(arguments: Iterable[str]) -> None:
  """Refuses arguments whose bytes are no text; no report or manifest could state them.

  Raises:
    UserError: naming the first one.
  """
  for argument in arguments:
    try:
      argument.encode("utf-8")
    except UnicodeEncodeError as e:
      shown = argument.encode("utf-8", "backslashreplace").decode("utf-8")
      raise UserError(
        f"{shown[:200]}: this argument is not UTF-8; type the text anew in a UTF-8 terminal, or"
        " rename the file"
      ) from e


@contextlib.contextmanager
def one_line(program: str) -> Iterator[None]:
  """Ends the command with one line where the block raises what its user can mend.

  That is a UserError, an interrupt, and trouble of the machine (`explain`). Anything else is a bug
  and passes with its traceback.

  Args:
    program: Name of the command, for the line.
  """
  with streams.prepared(), signals.watched(program) as raise_what_came:
    try:
      try:
        yield
        raise_what_came()
        streams.flush_stdout()
      except SystemExit:
        streams.flush_stdout()
        raise
    except UserError as error:
      fail(program, str(error))
    except KeyboardInterrupt:
      signals.end(program, signal.SIGINT)
    except signals.Terminated:
      signals.end(program, signal.SIGTERM)
    except Exception as error:
      _end(program, error)


def _end(program: str, error: Exception) -> NoReturn:
  if isinstance(error, streams.StdoutError):
    streams.abandon(sys.stdout)
    if error.errno == errno.EPIPE:
      raise SystemExit(
        EXIT_PIPE
      ) from error  # `| head`: its user has seen enough, and wants no word
    fail(program, f"cannot write to standard output: {_reason(error)}")
  line = explain(error)
  if line is None:
    raise error
  fail(program, line)


def explain(error: BaseException) -> str | None:
  """One line for trouble of the machine; None for what looks like a bug of the program.

  Args:
    error: What was raised.
  """
  if isinstance(error, UnicodeError):
    return (
      f"a text or a file name is not UTF-8 ({error}): rename the file or write the text anew; in a"
      " shell whose locale is not UTF-8, set LC_ALL=C.UTF-8"
    )
  if isinstance(error, MemoryError):
    return "out of memory: close other programs, or make less at once (a smaller batch, fewer jobs)"
  if _from_backends(error):
    return _no_device(error)
  if isinstance(error, OSError) and error.errno:
    where = f"{os.fspath(error.filename)!r}: " if isinstance(error.filename, str | bytes) else ""
    return f"{where}{_reason(error)}"
  # Libraries wrap what the system said: safetensors, TensorFlow, Orbax, libsndfile.
  text = str(error)
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
    if os.strerror(number) in text:
      return _reason(OSError(number, os.strerror(number)))
  if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in text:
    return (
      "the device is out of memory: make less at once (config.train.batch_size,"
      f" config.train.accumulate, config.batch_size); {text.strip().splitlines()[0][:200]}"
    )
  return None


def _reason(error: OSError) -> str:
  remedy = _REMEDIES.get(error.errno or 0, "")
  return f"{error.strerror or error}" + (f"; {remedy}" if remedy else "")


def _from_backends(error: BaseException) -> bool:
  """Whether JAX raised it when it looked for its devices."""
  if _devices_fail():
    return True
  frames = traceback.extract_tb(error.__traceback__)
  return any(
    f.name == "backends" and pathlib.PurePath(f.filename).name == "xla_bridge.py" for f in frames
  )


def _devices_fail() -> bool:
  """Whether the platform that JAX_PLATFORMS asks for cannot be had.

  Asked anew: JAX takes its own frames out of the tracebacks of what fails inside `jit`.
  """
  if "jax" not in sys.modules or os.environ.get("JAX_PLATFORMS", "cpu").lower() in ("", "cpu"):
    return False
  try:
    sys.modules["jax"].devices()
    return False
  except Exception:
    return True


def _no_device(error: BaseException) -> str:
  asked = os.environ.get("JAX_PLATFORMS", "")
  said = (str(error).strip().splitlines() or [""])[0][:200]
  unknown = [p for p in asked.lower().split(",") if p not in (*_PLATFORMS, "cpu", "")]
  if unknown:
    takes = "it takes cpu, cuda or tpu"
    return f"JAX_PLATFORMS is {asked!r}; {takes}{nearest(unknown[0], ('cpu', 'cuda', 'tpu'))}"
  extra = next((_PLATFORMS[p] for p in asked.lower().split(",") if p in _PLATFORMS), "")
  if not extra:
    return f"JAX cannot use the devices of this machine: {said or 'no reason given'}"
  return (
    f"JAX_PLATFORMS is {asked!r}, and JAX finds no such device here: on a machine that has one,"
    f" install the extra {extra!r} (pip install -c constraints.txt -e '.[{extra}]'); elsewhere set"
    " JAX_PLATFORMS=cpu" + (f" ({said})" if said else "")
  )


def check_devices() -> None:
  """Refuses JAX_PLATFORMS=tpu on a machine without a TPU, where libtpu would print a page.

  Raises:
    UserError: saying what to do.
  """
  if os.environ.get("JAX_PLATFORMS", "").lower() != "tpu" or not _PCI.is_dir():
    return
  try:
    found = any(p.read_text().strip() == _GOOGLE for p in _PCI.glob("*/vendor"))
  except OSError:
    return
  if not found:
    raise UserError(_no_device(RuntimeError()))
