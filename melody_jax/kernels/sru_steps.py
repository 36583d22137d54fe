"""The work of one grid cell of the fused SRU kernels: forward and backward over all K steps.

The TPU and the GPU kernels of `sru_pallas` share this code. They differ only in how the
[rows, columns] of a step are read and written; a `Memory` hides the difference.

A tile holds all K steps of some rows and columns. Row DIRECTION of the vectors tells the direction
of each column, so a tile may hold forward columns, reverse columns, or both. Each direction in the
tile takes one pass over it, in its own order of time. `mixed` says that some tiles may hold both.
Then a pass writes its own columns only.

Shape letters: K sequence, R rows and C columns of the tile, V the vectors below.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp

# The rows of the vectors [V, 1, C] are v_f, v_r, b_f, b_r and the direction: 0 forward, 1 reverse.
DIRECTION = 4
N_GRADIENTS = 4  # the first four have a gradient, the direction has none

Ref = Any  # Pallas has no public type for its references


@dataclasses.dataclass(frozen=True)
class Memory:
  """How a kernel reads and writes its blocks.

  Attributes:
    load: (ref, k) -> step k of a block, float32 [R, C].
    store: (ref, k, value [R, C], mask bool [1, C] or None) -> None. Columns that the mask excludes
      keep their value.
    valid: bool [R, C], false beyond the end of the array. None if the whole tile is inside.
    barrier: Makes stores of one pass visible to loads of the next.
    unroll: Steps in one iteration of a loop.
  """

  load: Callable[[Ref, Any], jax.Array]
  store: Callable[[Ref, Any, jax.Array, jax.Array | None], None]
  valid: jax.Array | None
  barrier: Callable[[], None]
  unroll: int


def _sigmoid_gates(u_f, u_r, previous, vectors):
  v_f, v_r, b_f, b_r = vectors
  return jax.nn.sigmoid(u_f + v_f * previous + b_f), jax.nn.sigmoid(u_r + v_r * previous + b_r)


def _next_state(u_c, u_f, previous, vectors):
  v_f, _, b_f, _ = vectors
  f = jax.nn.sigmoid(u_f + v_f * previous + b_f)
  return u_c + f * (previous - u_c)


def _for_each_direction(vectors_Vx1xC: Ref, mixed: bool, run: Callable) -> None:
  """Calls run(reverse, vectors, mask) for each direction in the tile."""
  vectors = tuple(vectors_Vx1xC[i] for i in range(N_GRADIENTS))
  direction = vectors_Vx1xC[DIRECTION]
  # A direction is known only at run time: which columns a tile holds depends on the shard.
  for reverse, is_present in (
    (False, jnp.min(direction) < 0.5),
    (True, jnp.max(direction) > 0.5),
  ):
    mask = ((direction > 0.5) if reverse else (direction < 0.5)) if mixed else None

    # Most tiles hold one direction only, and skip the other pass while they run.
    @pl.when(is_present)
    def _(reverse=reverse, mask=mask):
      run(reverse, vectors, mask)


def forward(candidate, forget, reset, skip, vectors, h, *, memory: Memory, mixed: bool) -> None:
  """Computes h of one tile. Only `h` is written.

  Args:
    candidate, forget, reset, skip: Input blocks, references [K, R, C].
    vectors: Reference [V, 1, C].
    h: Output block, reference [K, R, C].
    memory: How to read and write the blocks.
    mixed: Whether a tile may hold columns of both directions.
  """
  steps, *tile = h.shape

  def run(reverse, weights, mask):
    def step(i, previous):
      k = steps - 1 - i if reverse else i
      u_c, s = memory.load(candidate, k), memory.load(skip, k)
      u_f, u_r = memory.load(forget, k), memory.load(reset, k)
      f, r = _sigmoid_gates(u_f, u_r, previous, weights)
      # f c' + (1 - f) u_c with one multiplication.
      c = u_c + f * (previous - u_c)
      memory.store(h, k, s + r * (c - s), mask)
      return c

    lax.fori_loop(0, steps, step, jnp.zeros(tile, jnp.float32), unroll=memory.unroll)

  _for_each_direction(vectors, mixed, run)


def _step_gradients(u_c, u_f, u_r, skip, gradient, previous, d_next, vectors):
  """Gradients of one step, all [R, C].

  Returns:
    Those of (u_c, u_f, u_r, skip), those of (v_f, v_r, b_f, b_r), and that of the state before it.
  """
  v_f, v_r, _, _ = vectors
  f, r = _sigmoid_gates(u_f, u_r, previous, vectors)
  c = u_c + f * (previous - u_c)
  d_r = gradient * (c - skip) * r * (1.0 - r)
  # A state is read twice: by h of its own step, and by the next step.
  d_c = gradient * r + d_next
  d_f = d_c * (previous - u_c) * f * (1.0 - f)
  d_inputs = (d_c * (1.0 - f), d_f, d_r, gradient * (1.0 - r))
  d_vectors = (d_f * previous, d_r * previous, d_f, d_r)
  return d_inputs, d_vectors, d_c * f + d_f * v_f + d_r * v_r


def _store_vector_gradients(d_vectors_4x1xC: Ref, sums_RxC, memory: Memory, mask) -> None:
  """Adds the gradients of v_f, v_r, b_f and b_r, summed over K, over the rows and writes them."""
  for i, total in enumerate(sums_RxC):
    # Values beyond the end of the array may be anything, also NaN. They must not reach the sum.
    inside = total if memory.valid is None else jnp.where(memory.valid, total, 0.0)
    value = jnp.sum(inside, axis=0, keepdims=True)
    if mask is not None:
      # The pass of the other direction has written its own columns, which must stay.
      value = jnp.where(mask, value, d_vectors_4x1xC[i])
    d_vectors_4x1xC[i] = value


def backward(
  candidate,
  forget,
  reset,
  skip,
  gradient,
  vectors,
  d_candidate,
  d_forget,
  d_reset,
  d_skip,
  d_vectors_4x1xC,
  states_KxRxC,
  *,
  memory: Memory,
  mixed: bool,
) -> None:
  """Computes the gradients of one tile.

  The forward kernel keeps no states: a first loop computes them again, a second runs against time.

  Args:
    candidate, forget, reset, skip: Input blocks, references [K, R, C].
    gradient: Gradient of h, reference [K, R, C].
    vectors: Reference [V, 1, C].
    d_candidate, d_forget, d_reset, d_skip: Gradients to write, references [K, R, C].
    d_vectors_4x1xC: Gradients of v_f, v_r, b_f and b_r to write, summed over K and R.
    states_KxRxC: Scratch memory, float32 [K, R, C].
    memory: How to read and write the blocks.
    mixed: Whether a tile may hold columns of both directions.
  """
  steps, *tile = candidate.shape

  def run(reverse, weights, mask):
    index = (lambda i: steps - 1 - i) if reverse else (lambda i: i)

    def recompute(i, previous):
      k = index(i)
      memory.store(states_KxRxC, k, previous, mask)
      return _next_state(memory.load(candidate, k), memory.load(forget, k), previous, weights)

    def differentiate(i, carry):
      k = index(steps - 1 - i)
      d_next, *sums = carry
      refs = candidate, forget, reset, skip, gradient, states_KxRxC
      values = (memory.load(ref, k) for ref in refs)
      d_inputs, d_vectors, d_previous = _step_gradients(*values, d_next, weights)
      for ref, value in zip((d_candidate, d_forget, d_reset, d_skip), d_inputs, strict=True):
        memory.store(ref, k, value, mask)
      return (d_previous, *(total + d for total, d in zip(sums, d_vectors, strict=True)))

    zero = jnp.zeros(tile, jnp.float32)
    lax.fori_loop(0, steps, recompute, zero, unroll=memory.unroll)
    # The second loop reads states that other threads of the block stored in the first.
    memory.barrier()
    _, *sums = lax.fori_loop(0, steps, differentiate, (zero,) * 5, unroll=memory.unroll)
    _store_vector_gradients(d_vectors_4x1xC, sums, memory, mask)

  _for_each_direction(vectors, mixed, run)
