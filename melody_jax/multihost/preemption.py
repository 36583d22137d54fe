"""Notices that the machine will be taken away, on all hosts at the same step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptionNotice:
  """Says at which step all hosts should save and stop.

  Schedulers announce a preemption with SIGTERM, often to one host only. A process that runs alone
  remembers the signal. Several processes agree on a step through JAX's coordination service, which
  listens for the signal since `jax.distributed.initialize`.

  Use it as a context manager; at its end the former signal handler is restored.
  """

  def __init__(self) -> None:
    # An event, because a signal may come at any instruction.
    self._noticed = threading.Event()
    self._former: Any = None
    self._listening = False

  def __enter__(self) -> "PreemptionNotice":
    alone = jax.process_count() == 1
    # Python allows handlers in the main thread only; a caller elsewhere keeps its own.
    if alone and threading.current_thread() is threading.main_thread():
      self._former = signal.signal(signal.SIGTERM, self._remember)
      self._listening = True
    return self

  def __exit__(self, *_: Any) -> None:
    if self._listening:
      signal.signal(signal.SIGTERM, self._former)

  def _remember(self, signum: int, frame: FrameType | None) -> None:
    del signum, frame
    self._noticed.set()

  def reached(self, step: int) -> bool:
    """Whether to save and stop after `step`. Call it at every step, on every host."""
    # A step of its own choice on each host would leave the others waiting in a collective.
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._noticed.is_set()
