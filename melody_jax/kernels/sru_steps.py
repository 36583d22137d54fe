"""One grid cell of the fused SRU kernels: forward and backward over all K steps.

The code is shared by the TPU and the GPU kernels of `sru_pallas`, which differ only in how a
step's [rows, columns] are read and written; a `Memory` hides that.

A tile holds all K steps of some rows and columns. Columns know their direction (row DIRECTION of
the vectors), so a tile may hold forward columns, reverse ones, or both. Each direction present is
one pass over the tile in its own order of time; `mixed` says that tiles with both may exist, and
passes then write their own columns only.

Shape letters: K sequence, R rows and C columns of the tile, V the vectors below.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp

# Rows of the vectors [V, 1, C]: v_f, v_r, b_f, b_r, and 0 for forward columns, 1 for reverse ones.
DIRECTION = 4
N_GRADIENTS = 4  # the first rows, which have a gradient; the direction has none

Ref = Any  # Pallas has no public type for its references


@dataclasses.dataclass(frozen=True)
class Memory:
  """Access of a kernel to its blocks.

  Attributes:
    load: (ref, k) -> step k, float32 [R, C].
    store: (ref, k, value [R, C], mask [1, C] or None) -> None; keeps what the mask excludes.
    valid: [R, C], false beyond the array's end; None where all of the tile is inside.
    barrier: Wait that puts stores of one pass before loads of the next.
    unroll: Steps per loop iteration.
  """

  load: Callable[[Ref, Any], jax.Array]
  store: Callable[[Ref, Any, jax.Array, jax.Array | None], None]
  valid: jax.Array | None
  barrier: Callable[[], None]
  unroll: int


def _sigmoid_gates(u_f, u_r, previous, vectors):
  v_f, v_r, b_f, b_r = vectors
  return jax.nn.sigmoid(u_f + v_f * previous + b_f), jax.nn.sigmoid(u_r + v_r * previous + b_r)


def _for_each_direction(vectors_Vx1xC: Ref, mixed: bool, run: Callable) -> None:
  """Calls run(reverse, vectors, mask) for each direction that the tile holds."""
  vectors = tuple(vectors_Vx1xC[i] for i in range(N_GRADIENTS))
  direction = vectors_Vx1xC[DIRECTION]
  for reverse, is_present in (
    (False, jnp.min(direction) < 0.5),
    (True, jnp.max(direction) > 0.5),
  ):
    mask = ((direction > 0.5) if reverse else (direction < 0.5)) if mixed else None

    @pl.when(is_present)
    def _(reverse=reverse, mask=mask):
      run(reverse, vectors, mask)


def forward(candidate, forget, reset, skip, vectors, h, *, memory: Memory, mixed: bool) -> None:
  """Output h of one tile; nothing else is written.

  Args:
    candidate, forget, reset, skip: Blocks [K, R, C] of what `sru.sru` takes.
    vectors: Block [V, 1, C], see DIRECTION.
    h: Block [K, R, C] to write.
    memory: Access to the blocks.
    mixed: Whether a tile may hold columns of both directions.
  """
  steps, *tile = h.shape

  def run(reverse, weights, mask):
    def step(i, previous):
      k = steps - 1 - i if reverse else i
      u_c, s = memory.load(candidate, k), memory.load(skip, k)
      u_f, u_r = memory.load(forget, k), memory.load(reset, k)
      f, r = _sigmoid_gates(u_f, u_r, previous, weights)
      c = u_c + f * (previous - u_c)
      memory.store(h, k, s + r * (c - s), mask)
      return c

    lax.fori_loop(0, steps, step, jnp.zeros(tile, jnp.float32), unroll=memory.unroll)

  _for_each_direction(vectors, mixed, run)


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
  """Gradients of one tile from the gradient of h; those of the vectors summed over K and R.

  The forward pass leaves nothing behind: a first pass recomputes the state before each step
  into `states_KxRxC` (float32 scratch), a second one runs against time.
  """
  steps, *tile = candidate.shape

  def run(reverse, weights, mask):
    v_f, v_r, b_f, _ = weights

    def index(i):
      return steps - 1 - i if reverse else i

    def recompute(i, previous):
      memory.store(states_KxRxC, index(i), previous, mask)
      u_c = memory.load(candidate, index(i))
      f = jax.nn.sigmoid(memory.load(forget, index(i)) + v_f * previous + b_f)
      return u_c + f * (previous - u_c)

    def differentiate(i, carry):
      k = index(steps - 1 - i)
      d_next, sum_v_f, sum_v_r, sum_b_f, sum_b_r = carry
      u_c, s = memory.load(candidate, k), memory.load(skip, k)
      u_f, u_r = memory.load(forget, k), memory.load(reset, k)
      g, previous = memory.load(gradient, k), memory.load(states_KxRxC, k)
      f, r = _sigmoid_gates(u_f, u_r, previous, weights)
      c = u_c + f * (previous - u_c)
      d_r = g * (c - s) * r * (1.0 - r)
      d_c = g * r + d_next
      d_f = d_c * (previous - u_c) * f * (1.0 - f)
      for ref, value in (
        (d_candidate, d_c * (1.0 - f)),
        (d_forget, d_f),
        (d_reset, d_r),
        (d_skip, g * (1.0 - r)),
      ):
        memory.store(ref, k, value, mask)
      d_previous = d_c * f + d_f * v_f + d_r * v_r
      sums = (sum_v_f + d_f * previous, sum_v_r + d_r * previous, sum_b_f + d_f, sum_b_r + d_r)
      return (d_previous, *sums)

    zero = jnp.zeros(tile, jnp.float32)
    lax.fori_loop(0, steps, recompute, zero, unroll=memory.unroll)
    memory.barrier()
    _, *sums = lax.fori_loop(0, steps, differentiate, (zero,) * 5, unroll=memory.unroll)
    for i, total in enumerate(sums):
      # Beyond the array's end lies anything, NaN too: it must not reach the sum.
      inside = total if memory.valid is None else jnp.where(memory.valid, total, 0.0)
      value = jnp.sum(inside, axis=0, keepdims=True)
      if mask is not None:
        value = jnp.where(mask, value, d_vectors_4x1xC[i])
      d_vectors_4x1xC[i] = value

  _for_each_direction(vectors, mixed, run)
