"""Rows over the devices of a host."""

import numpy as np

from melody_jax.encoders.rows import map_rows
from tests.training.processes import start

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from melody_jax.encoders.rows import map_rows
seen = []
@jax.jit
def function(x, n):
  return jnp.sum(x, axis=1) * n
def spy(x, n):
  seen.append(len(x.sharding.device_set)); return function(x, n)
x = np.arange(14.0).reshape(7, 2); n = np.arange(7)
np.testing.assert_allclose(map_rows(spy, x, n), x.sum(1) * n)
print(jax.local_device_count(), seen)
"""


def test_rows_go_over_all_devices_and_come_back_in_order():
  process = start(["-c", SCRIPT], devices=3)
  said, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  assert said.strip() == "3 [3, 3, 3]"


def test_one_device_takes_one_row_a_call():
  calls = []

  def function(x):
    calls.append(x.shape)
    return x * 2

  np.testing.assert_array_equal(map_rows(function, np.arange(3)), [0, 2, 4])
  assert calls == [(1,), (1,), (1,)]
