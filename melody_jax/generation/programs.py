"""Compiled programs: made once per shape, timed apart from their running, kept on disk."""

from collections.abc import Callable
import os
import time
from typing import Any

import jax
import jax.numpy as jnp

from melody_jax.errors import UserError
from melody_jax.host import cache_folders
from melody_jax.host.chips import GIB


def use_compilation_cache(directory: str | os.PathLike | None = None) -> None:
  """Keeps compiled programs in $JAX_COMPILATION_CACHE_DIR or the user's cache directory.

  Args:
    directory: Directory or bucket (gs://...) to use instead of the user's cache directory.
  """
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    # The second run of the command need not compile.
    cache = None if directory else cache_folders.user_cache()
    chosen = directory or (cache and cache / "melody_jax")
    # Without a folder that can be written every run compiles; that costs time, nothing else.
    if chosen:
      jax.config.update("jax_compilation_cache_dir", str(chosen))
  # JAX's own limit of a second would leave out the many small programs.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class Programs:
  """Functions compiled for the shapes that they are called with.

  Attributes:
    compile_seconds: Time spent so far compiling, or loading compiled programs from the cache.
  """

  def __init__(self):
    self._compiled: dict[Any, Any] = {}
    self._seen: set[Any] = set()
    self.compile_seconds = 0.0

  def call(
    self, name: str, function: Callable[..., Any], *args: Any, batch: int | None = None
  ) -> Any:
    """Compiles `function` for these shapes unless that was done, and runs it to its end.

    Args:
      name: Name of the program; functions that close over different things need different names.
      function: Function to be compiled.
      *args: Pytrees of arrays and numbers, of any shapes.
      batch: Number of items in the call, for the message where memory does not suffice.

    Raises:
      UserError: if the device has too little memory.
    """
    # The name stands for the function: a lambda made anew at each call would never be found again.
    shapes = jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), args)
    key = (name, jax.tree.structure(args), tuple(jax.tree.leaves(shapes)))
    try:
      if key not in self._compiled:
        began = time.monotonic()
        # Compiled ahead of the call, so that its time can be told apart, and its memory asked for.
        self._compiled[key] = jax.jit(function).lower(*args).compile()
        self.compile_seconds += time.monotonic() - began
      # Waited for: a time, and an error, then belong to the call that caused them.
      return jax.block_until_ready(self._compiled[key](*args))
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      compiled = self._compiled.get(key)
      raise UserError(
        out_of_memory_message(name.split(":")[0], compiled, batch, _memory_limit())
      ) from error

  def first_counts_as_compiling(self, key: Any, function: Callable[[], Any]) -> Any:
    """Runs a function that compiles by itself; its first call with `key` counts as compiling."""
    began = time.monotonic()
    result = jax.block_until_ready(function())
    if key not in self._seen:
      self._seen.add(key)
      self.compile_seconds += time.monotonic() - began
    return result


def _memory_limit() -> int | None:
  """Bytes that JAX may use on the first device, where it tells."""
  return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def out_of_memory_message(name: str, compiled: Any, batch: int | None, limit: int | None) -> str:
  """What did not fit, and what would fit, as a line for people.

  The memory of a batch is that of the parameters plus that of its items; steps run in one loop and
  do not change it.

  Args:
    name: Name of the program.
    compiled: The compiled program; None where compiling itself ran out of memory.
    batch: Number of its items; None where nothing can be made smaller.
    limit: Bytes of memory that the device has; None: unknown.
  """
  what = f"out of memory on {jax.devices()[0].device_kind} in the program {name!r}"
  advice = "close what else uses the device, or see docs/sampling.md, 'On a GPU'"
  if batch is None:
    return f"{what}: {advice}"
  what += f" with a batch of {batch}"
  analysis = compiled.memory_analysis() if compiled is not None else None
  if analysis is None or not limit:
    return f"{what}: try {max(1, batch // 2)} (any number of steps needs the same), {advice}"
  fixed = analysis.argument_size_in_bytes + analysis.generated_code_size_in_bytes
  per_item = (analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / batch
  fits = int((limit - fixed) // per_item) if per_item else batch
  needs = (fixed + batch * per_item) / GIB
  # What fits by the compiler's count failed all the same: others, or fragments, take the rest.
  fits = min(fits, batch - 1)
  if fits < 1:
    return (
      f"{what}, which needs {needs:.2f} of {limit / GIB:.2f} GiB; no batch fits, at any number of"
      f" steps: use dtype bfloat16, a smaller model or another device; {advice}"
    )
  return (
    f"{what}, which needs {needs:.2f} of {limit / GIB:.2f} GiB: a batch of {fits} fits, at any"
    f" number of steps from 1 to 100; or {advice}"
  )
