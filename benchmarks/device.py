"""What the present device can do, measured, so that shares of it mean something."""

from collections.abc import Callable
import math
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp


def device_name() -> str:
  """The accelerator's name, or the CPU's as the operating system gives it."""
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
  """Median wall seconds of `function`, which returns arrays; one call more warms it up."""
  jax.block_until_ready(function())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return sorted(times)[len(times) // 2]


def matmul_peak(dtype: str = "float32", size: int | None = None) -> float:
  """FLOP/s of a square matmul, the best of some sizes: what this device reaches, not says."""
  sizes = (
    [size] if size else ([512, 1024, 2048] if jax.default_backend() == "cpu" else [4096, 8192])
  )
  best = 0.0
  for n in sizes:
    a, b = (jax.random.normal(jax.random.key(i), (n, n), dtype) for i in range(2))
    multiply = jax.jit(lambda a, b: jnp.dot(a, b))
    seconds = seconds_per_call(lambda a=a, b=b, f=multiply: f(a, b), 10)
    best = max(best, 2.0 * n**3 / seconds)
  return best


def memory_bandwidth(working_set: int, repeats: int = 5) -> float:
  """Bytes/s that this device moves from and to a working set of so many bytes.

  The best of two patterns that live on memory: a chain of matrix-vector products, which is
  what decoding a token is made of, and an elementwise update, which reads and writes. A working
  set that fits a cache is measured in that cache: so are the weights of a small model.
  """
  n = max(math.isqrt(working_set // 4) // 64 * 64, 64)
  # Enough rounds in one program that calling it costs nothing beside them.
  rounds = max(1, 2**28 // (4 * n * n))
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
