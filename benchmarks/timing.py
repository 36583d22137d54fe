"""Cold and warm time of one compiled program."""

from collections.abc import Callable
import dataclasses
import os
import time
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Timing:
  """Wall times of one program.

  Attributes:
    compile_seconds: Time of tracing and compiling.
    first_seconds: Time of the first call after that.
    warm_seconds: Median time of the later calls.
    runs: Number of the later calls.
    scratch_bytes: Memory of the program besides arguments and results; None if not known.
  """

  compile_seconds: float
  first_seconds: float
  warm_seconds: float
  runs: int
  scratch_bytes: int | None = None


def median_of_runs(
  function: Callable[[], Any], repeats: int, budget: float
) -> tuple[float, int, Any]:
  """Calls a function several times.

  Args:
    function: Function that returns arrays.
    repeats: Largest number of calls.
    budget: Seconds after which no further call is started: one run of a slow program is enough.

  Returns:
    (median wall time in seconds, number of calls, result of the last call).
  """
  times: list[float] = []
  result = None
  while len(times) < max(repeats, 1) and (not times or sum(times) < budget):
    started = time.perf_counter()
    result = jax.block_until_ready(function())
    times.append(time.perf_counter() - started)
  return sorted(times)[(len(times) - 1) // 2], len(times), result


def time_program(
  function: Callable[..., Any],
  arguments: tuple[Any, ...],
  repeats: int,
  budget: float,
  trace: str | os.PathLike = "",
) -> tuple[Timing, Any]:
  """Compiles a function for its arguments, and runs it.

  Args:
    function: Function of arrays, to be jitted.
    arguments: Its arguments.
    repeats: Largest number of warm calls.
    budget: Seconds after which no further warm call is started.
    trace: Directory for a profiler trace of one more call, which is not timed; "" means no trace.

  Returns:
    (times, result of the last call).
  """
  started = time.perf_counter()
  # Compiled ahead, so that compiling and the first call are timed apart.
  compiled = jax.jit(function).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - started
  started = time.perf_counter()
  jax.block_until_ready(compiled(*arguments))
  first_seconds = time.perf_counter() - started
  warm_seconds, runs, result = median_of_runs(lambda: compiled(*arguments), repeats, budget)
  if trace:
    # A call of its own, as tracing slows a program down.
    with jax.profiler.trace(str(trace)):
      jax.block_until_ready(compiled(*arguments))
  memory = compiled.memory_analysis()
  scratch = None if memory is None else int(memory.temp_size_in_bytes)
  return Timing(compile_seconds, first_seconds, warm_seconds, runs, scratch), result
