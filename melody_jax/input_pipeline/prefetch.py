"""Reads batches ahead in a thread, so that devices do not wait for the disk."""

from collections.abc import Callable
import queue
import threading
from typing import Any

from melody_jax.input_pipeline.source import Source


class Prefetch:
  """A source that reads its next batches ahead. Batches, order and positions stay the same.

  Args:
    source: Source to read. From now on only the thread of this object may use it.
    prepare: Work on each batch on the host (`Task.prepare`). It runs in the thread as well.
    depth: Number of batches kept ready.

  Raises:
    Exception: Whatever the source or `prepare` raised, at the batch that it belongs to.
  """

  def __init__(self, source: Source, prepare: Callable[[Any], Any], depth: int = 2):
    self._source = source
    self._prepare = prepare
    self._depth = depth
    self._state = source.get_state()
    self._start()

  def _start(self) -> None:
    # A new queue for each thread: what an old thread still puts never reaches a reader.
    self._ready: queue.Queue = queue.Queue(maxsize=self._depth)
    self._stop = threading.Event()
    self._thread = threading.Thread(
      target=self._read, args=(self._ready, self._stop), name="prefetch", daemon=True
    )
    self._thread.start()

  def _read(self, ready: queue.Queue, stop: threading.Event) -> None:
    while not stop.is_set():
      item: tuple[Any, Any, Exception | None]
      # The position travels with its batch: the source itself is already further on.
      try:
        item = (self._prepare(next(self._source)), self._source.get_state(), None)
      except Exception as error:  # raised where the batch is asked for
        item = (None, None, error)
      # A put without time limit would never notice `stop` while the queue is full.
      while not stop.is_set():
        try:
          ready.put(item, timeout=0.1)
          break
        except queue.Full:
          continue
      if item[2] is not None:
        return

  def __iter__(self) -> "Prefetch":
    return self

  def __next__(self) -> Any:
    batch, state, error = self._ready.get()
    if error is not None:
      self._ready.put((batch, state, error))  # a second call gets it too
      raise error
    self._state = state
    return batch

  def get_state(self) -> dict[str, Any]:
    """Position after the batch that was returned last. Batches read ahead do not count."""
    return self._state

  def set_state(self, state: dict[str, Any]) -> None:
    """Drops the batches read ahead and continues from a position that `get_state` returned."""
    self.close()
    self._source.set_state(state)
    self._state = state
    self._start()

  def close(self) -> None:
    """Ends the thread and waits for it."""
    self._stop.set()
    self._thread.join()
