"""Reads batches ahead in a thread, so that the devices never wait for the disk."""

from collections.abc import Callable
import queue
import threading
from typing import Any

from melody_jax.input_pipeline.source import Source


class Prefetch:
  """A source whose next batches are already read; same batches, same order, same positions.

  Args:
    source: read by one thread only, from here on.
    prepare: host-side work on each batch, done in the thread as well.
    depth: batches kept ready.
  """

  def __init__(self, source: Source, prepare: Callable[[Any], Any], depth: int = 2):
    self._source = source
    self._prepare = prepare
    self._depth = depth
    self._state = source.get_state()
    self._start()

  def _start(self) -> None:
    self._ready: queue.Queue = queue.Queue(maxsize=self._depth)
    self._stop = threading.Event()
    self._thread = threading.Thread(
      target=self._read, args=(self._ready, self._stop), name="prefetch", daemon=True
    )
    self._thread.start()

  def _read(self, ready: queue.Queue, stop: threading.Event) -> None:
    while not stop.is_set():
      item: tuple[Any, Any, Exception | None]
      try:
        item = (self._prepare(next(self._source)), self._source.get_state(), None)
      except Exception as error:  # raised where the batch is asked for
        item = (None, None, error)
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
    """Position after the batch last returned, whatever has been read ahead."""
    return self._state

  def set_state(self, state: dict[str, Any]) -> None:
    """Drops what was read ahead and continues from a position of `get_state`."""
    self.close()
    self._source.set_state(state)
    self._state = state
    self._start()

  def close(self) -> None:
    """Ends the thread."""
    self._stop.set()
    self._thread.join()
