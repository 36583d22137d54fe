"""Ctrl-C and SIGTERM: the command ends, with one line, wherever it is.

Python runs a handler between two of its own instructions. A compilation, a step on a device or a
long decoding is one instruction to it, and Ctrl-C would seem to be ignored for minutes. So a thread
watches as well: where the main thread does not come to its end in time, the thread ends the
process.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import Any, NoReturn

EXIT_SIGNAL = 128  # plus the number of the signal: what a shell says of a program that it ended
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated (SIGTERM)"}

_CONSOLE = "melody-jax"  # script that pip installs
# Seconds that the main thread has to notice the signal, then to clean up after it.
_NOTICE, _CLEAN_UP = 2.0, 10.0
# The same once the signal came again: somebody is waiting.
_AGAIN = 1.0


def end_quietly_while_importing() -> None:
  """Makes Ctrl-C end `python -m melody_jax.<command>` with one line while it is still importing.

  Reading all the libraries takes seconds, in which `watched` does not run yet. A program that
  imports this package keeps its own ways.
  """
  module = _module_that_runs()
  if (
    not module
    or threading.current_thread() is not threading.main_thread()
    or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
  ):
    return
  program = module.rsplit(".", 1)[-1]
  signal.signal(signal.SIGINT, lambda number, frame: end_now(program, number))


def _module_that_runs() -> str:
  """The module that runs: a command, a builder or a benchmark, else empty.

  `melody-jax sample` counts as the module melody_jax.sample.
  """
  argv = sys.orig_argv
  console = next((i for i, a in enumerate(argv[:3]) if os.path.basename(a) == _CONSOLE), None)
  if console is not None:
    return ".".join(["melody_jax", *argv[console + 1 : console + 2]])
  module = argv[argv.index("-m") + 1] if "-m" in argv[:-1] else ""
  return module if module.split(".")[0] in ("melody_jax", "data", "benchmarks") else ""


def end(program: str, number: int) -> NoReturn:
  """Ends the command after its clean-up, because a signal came.

  A process of its own ends at once: what libraries do at the end of Python fails where their
  threads were interrupted, and a second Ctrl-C would hit it.

  Args:
    program: Name of the command, for the line.
    number: The signal.
  """
  if threading.current_thread() is threading.main_thread():
    signal.signal(number, signal.SIG_IGN)
  if _module_that_runs():
    with contextlib.suppress(Exception):
      sys.stdout.flush()
    end_now(program, number)
  end_children()
  print(f"{program}: error: {WORDS[signal.Signals(number)]}", file=sys.stderr, flush=True)
  raise SystemExit(EXIT_SIGNAL + number)


class Terminated(BaseException):
  """SIGTERM came. No `Exception`, so that nothing on the way takes it for a failure of its own."""


class _Watch:
  """The two handlers, and the thread that sees to it that they have an effect.

  Args:
    program: Name of the command, for the line.
  """

  def __init__(self, program: str):
    self._program = program
    self._noticed, self._over = threading.Event(), threading.Event()
    self._reading, self._writing = os.pipe()
    os.set_blocking(self._writing, False)
    self._former: dict[int, Any] = {}
    self._came: int | None = None

  def start(self) -> None:
    self._former = {number: signal.signal(number, self._handle) for number in WORDS}
    self._former_hook, sys.unraisablehook = sys.unraisablehook, self._lost
    self._former_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
    threading.Thread(target=self._run, name="signals", daemon=True).start()

  def stop(self) -> None:
    self._over.set()
    sys.unraisablehook = self._former_hook
    signal.set_wakeup_fd(self._former_fd)
    for number, handler in self._former.items():
      signal.signal(number, handler)
    os.close(self._writing)  # the thread reads the end of the pipe, and ends

  def _handle(self, number: int, frame: Any) -> None:
    del frame
    # A second exception would hit the clean-up after the first one; the thread takes care of it.
    if self._noticed.is_set():
      return
    self._noticed.set()
    self._came = number
    self.raise_what_came()

  def raise_what_came(self) -> None:
    """Raises for the signal that came, if one did; for work that lost it on its way, again."""
    if self._came is not None:
      raise KeyboardInterrupt if self._came == signal.SIGINT else Terminated

  def _lost(self, unraisable: Any) -> None:
    """In a destructor or a callback Python prints an exception, drops it and goes on."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated) and self._came is not None:
      end_now(self._program, self._came)
    self._former_hook(unraisable)

  def _run(self) -> None:
    came = 0
    while data := os.read(self._reading, 1):
      number = data[0]
      # Somebody else's handler: a stream that ends well, a run that saves first.
      if number not in WORDS or signal.getsignal(number) != self._handle:
        continue
      came += 1
      if came == 1:
        threading.Thread(target=self._enforce, args=(number,), daemon=True).start()
      elif not self._over.wait(_AGAIN):
        end_now(self._program, number)
    os.close(self._reading)

  def _enforce(self, number: int) -> None:
    if not self._noticed.wait(_NOTICE) or not self._over.wait(_CLEAN_UP):
      end_now(self._program, number)


def end_now(program: str, number: int) -> NoReturn:
  """Ends this process and those it started, without any clean-up.

  Args:
    program: Name of the command, for the line.
    number: The signal that asked for it.
  """
  if threading.current_thread() is threading.main_thread():
    signal.signal(number, signal.SIG_IGN)  # pressed again, it would print the line again
  with contextlib.suppress(Exception):
    end_children()
    print(f"{program}: error: {WORDS[signal.Signals(number)]}", file=sys.stderr, flush=True)
  os._exit(EXIT_SIGNAL + number)


def end_children() -> None:
  """Ends the processes that `multiprocessing` started; they would outlive this one's work."""
  if "multiprocessing" in sys.modules:
    import multiprocessing

    for child in multiprocessing.active_children():
      child.terminate()


@contextlib.contextmanager
def watched(program: str) -> Iterator[Callable[[], None]]:
  """Raises KeyboardInterrupt at Ctrl-C and `Terminated` at SIGTERM, and ends what does not heed it.

  Outside the main thread it does nothing, as Python allows no handlers there.

  Args:
    program: Name of the command, for the line.

  Yields:
    To be called at the end of the work: raises once more what came and was lost on its way, as a
    library may have taken it for a failure of its own.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda: None
    return
  watch = _Watch(program)
  watch.start()
  try:
    yield watch.raise_what_came
  finally:
    watch.stop()
