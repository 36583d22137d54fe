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
    compile_seconds: tracing and compiling, nothing from a cache.
    first_seconds: the first call after that.
    warm_seconds: median of the later calls.
    runs: how many of those there were.
    scratch_bytes: what the program needs beside arguments and results; None: not known.
  """

  compile_seconds: float
  first_seconds: float
  warm_seconds: float
  runs: int
  scratch_bytes: int | None = None


def median_of_runs(
  function: Callable[[], Any], repeats: int, budget: float
) -> tuple[float, int, Any]:
  """Median wall seconds of up to `repeats` calls, how many there were, and the last result.

  Calls stop early once `budget` seconds have passed: one run of a slow program says enough.
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
  """Compiles `function` for these arguments and runs it.

  Args:
    function: of arrays; jitted here.
    arguments: its arguments.
    repeats: warm calls at most.
    budget: seconds after which no further warm call is started.
    trace: directory for a profiler trace of one call more, outside the times; empty: none.

  Returns:
    its times and its result.
  """
  started = time.perf_counter()
  compiled = jax.jit(function).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - started
  started = time.perf_counter()
  jax.block_until_ready(compiled(*arguments))
  first_seconds = time.perf_counter() - started
  warm_seconds, runs, result = median_of_runs(lambda: compiled(*arguments), repeats, budget)
  if trace:
    with jax.profiler.trace(str(trace)):
      jax.block_until_ready(compiled(*arguments))
  memory = compiled.memory_analysis()
  scratch = None if memory is None else int(memory.temp_size_in_bytes)
  return Timing(compile_seconds, first_seconds, warm_seconds, runs, scratch), result
