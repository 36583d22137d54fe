"""Reading ahead changes nothing but the waiting."""

import threading

import numpy as np
import pytest

from melody_jax.input_pipeline.prefetch import Prefetch


class Counter:
  """Batches 0, 1, 2, ...; position = the next one. Fails at `fail_at`."""

  def __init__(self, fail_at=None):
    self.position = 0
    self.fail_at = fail_at
    self.read = threading.Semaphore(0)

  def __next__(self):
    if self.position == self.fail_at:
      raise ValueError("torn shard")
    self.position += 1
    self.read.release()
    return {"x": np.array([self.position - 1])}

  def get_state(self):
    return {"position": self.position}

  def set_state(self, state):
    self.position = state["position"]


def double(batch):
  return {"x": 2 * batch["x"]}


def test_positions_are_those_of_what_was_returned():
  source = Counter()
  ahead = Prefetch(source, double, depth=2)
  for _ in range(3):
    source.read.acquire(timeout=10)  # it has read further than anybody asked
  assert ahead.get_state() == {"position": 0}
  for i in range(5):
    assert next(ahead)["x"][0] == 2 * i
    assert ahead.get_state() == {"position": i + 1}
  ahead.close()


def test_setting_the_position_drops_what_was_read_ahead():
  source = Counter()
  ahead = Prefetch(source, double)
  next(ahead)
  ahead.set_state({"position": 10})
  assert [int(next(ahead)["x"][0]) for _ in range(3)] == [20, 22, 24]
  ahead.close()


def test_an_error_reaches_the_caller_in_its_turn():
  ahead = Prefetch(Counter(fail_at=2), double)
  assert [int(next(ahead)["x"][0]) for _ in range(2)] == [0, 2]
  for _ in range(2):
    with pytest.raises(ValueError, match="torn shard"):
      next(ahead)
  ahead.close()


def test_close_ends_the_thread_however_full_the_queue():
  ahead = Prefetch(Counter(), double, depth=1)
  next(ahead)
  ahead.close()
  assert not [t for t in threading.enumerate() if t.name == "prefetch" and t is ahead._thread]
