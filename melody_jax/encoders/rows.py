"""Runs a jitted function over many rows, as many at a time as this host has devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np


def map_rows(function: Callable[..., Any], *arrays_NxX: np.ndarray) -> np.ndarray:
  """function(rows, ...) over equal parts of N rows, one row a local device, gathered in order.

  One compiled shape, whatever N: the last part is filled up with its first row. Every row's
  result depends on that row alone, so that neither the number of devices nor its neighbours
  matter.

  Args:
    function: Takes arrays with one row for each device, returns an array with the same rows.
    *arrays_NxX: Arrays with N rows each, N at least 1.

  Returns:
    The function's results for all N rows, as one array [N, ...].
  """
  devices = jax.local_devices()
  count = len(devices)
  if count == 1:  # the default placement shares compiled programs with others
    return _map_parts(function, arrays_NxX, count, lambda part: part)
  # A mesh of this host alone: hosts encode other records, and none waits for another.
  mesh = Mesh(np.asarray(devices), ("rows",))
  layout = NamedSharding(mesh, PartitionSpec("rows"))
  with jax.set_mesh(mesh):  # kernels ask it how rows lie
    return _map_parts(function, arrays_NxX, count, lambda part: jax.device_put(part, layout))


def _map_parts(function, arrays_NxX, count, place) -> np.ndarray:
  n = len(arrays_NxX[0])
  results = []
  for start in range(0, n, count):
    index = np.arange(start, start + count)
    index[index >= n] = start
    results.append(np.asarray(function(*(place(a[index]) for a in arrays_NxX)))[: n - start])
  return np.concatenate(results)
