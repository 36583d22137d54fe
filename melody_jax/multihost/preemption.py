"""Notices that the machine is about to be taken away, on all hosts at the same step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptionNotice:
  """True from the step at which every host should save and stop.

  Schedulers announce a preemption by SIGTERM, often to one host only. One process remembers the
  signal; several agree on a step through JAX's coordination service, which
  `jax.distributed.initialize` sets listening for the signal.

  Use as a context manager: the former handler returns at its end.
  """

  def __init__(self) -> None:
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
    """Whether to save and stop after `step`; call it at every step, on every host."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._noticed.is_set()
