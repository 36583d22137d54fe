"""Measures what this device can do, so that a share of it means something."""

from collections.abc import Callable
import math
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp


def hardware_name() -> str:
  """Name of the accelerator; for a CPU, the name that the operating system gives."""
  device = jax.devices()[0]
  if device.platform != "cpu":
    return f"{jax.device_count()} x {device.device_kind}"
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as f:
      names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}"
  except (OSError, IndexError):
    return platform.processor() or "cpu"


def seconds_per_call(function: Callable[[], Any], repeats: int) -> float:
  """Median wall time of a function in seconds.

  Args:
    function: Function that returns arrays.
    repeats: Number of calls that are timed; one more comes first, to warm up.
  """
  jax.block_until_ready(function())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return sorted(times)[len(times) // 2]


def matmul_peak(dtype: str = "float32", size: int | None = None) -> float:
  """Best FLOP/s of a square matmul: what this device reaches, not what its data sheet says.

  Args:
    dtype: Dtype of the matrices.
    size: Size of the matrices; None tries some sizes that suit the device.
  """
  sizes = (
    [size] if size else ([512, 1024, 2048] if jax.default_backend() == "cpu" else [4096, 8192])
  )
  best = 0.0
  for n in sizes:
    a, b = (jax.random.normal(jax.random.key(i), (n, n), dtype) for i in range(2))
    multiply = jax.jit(lambda a, b: jnp.dot(a, b))
    seconds = seconds_per_call(lambda a=a, b=b, f=multiply: f(a, b), 10)
    # The best size: small ones do not fill the device, large ones may leave its cache.
    best = max(best, 2.0 * n**3 / seconds)
  return best


def memory_bandwidth(working_set: int, repeats: int = 5) -> float:
  """Bytes per second that this device reads and writes.

  The best of two patterns that are bound by memory: a chain of matrix-vector products, as when a
  token is decoded, and an elementwise update, which reads and writes. A small working set is
  measured inside a cache; the weights of a small model live there too.

  Args:
    working_set: Size of the data in bytes.
    repeats: Number of calls that are timed.
  """
  n = max(math.isqrt(working_set // 4) // 64 * 64, 64)
  # Many rounds in one program, so that the cost of calling it does not count.
  rounds = max(1, 2**28 // (4 * n * n))
  # Scaled so that the vector keeps its length: denormal numbers would slow a CPU down.
  matrix = jax.random.normal(jax.random.key(0), (n, n)) / math.sqrt(n)
  vector = jnp.ones((n,))

  @jax.jit
  def products(matrix, x):
    return jax.lax.fori_loop(0, rounds, lambda _, x: jnp.dot(matrix, x), x)

  @jax.jit
  def updates(matrix):
    return jax.lax.fori_loop(0, rounds, lambda _, x: 0.5 * x + 1.0, matrix)

  once = 4.0 * n * n * rounds
  read = once / seconds_per_call(lambda: products(matrix, vector), repeats)
  both = 2.0 * once / seconds_per_call(lambda: updates(matrix), repeats)
  return max(read, both)
