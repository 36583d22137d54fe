"""The SRU as one fused kernel, for TPU (Mosaic) and GPU (Triton), with a gradient of its own.

Both directions and both gates run in one pass: the four input sequences are read once and h is
written once. The backward kernel computes c again from the same four sequences, so nothing else is
kept from the forward pass. It writes the four gradients at once. For the gradients of the vectors
it writes one sum for each tile of rows.

A cell of the grid owns a tile [K, rows, columns] with all K steps on chip. `sru_steps` says what it
does, `sru_tiling` how large it is. K, R and H may be any numbers.

Sharding (`layout`): R is spread over all mesh axes but the tensor axis, 2H over the tensor axis; K
stays whole. Gradients of the vectors are summed over the row axes. A shard of 2H may hold columns
of one direction or of both, so each column carries its direction with it.

Shape letters: K sequence, R rows, H hidden size of one direction, C columns of one shard, V the
vectors of `sru_steps`.
"""

import dataclasses
from functools import partial
import math
from typing import Any, Literal

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from melody_jax.kernels import sru_steps
from melody_jax.kernels.layout import Layout, layout_in_context
from melody_jax.kernels.sru_tiling import Tiling, gpu_tiling, tpu_tiling

TPU_UNROLL = 4  # steps a loop iteration; not measured on a TPU
GPU_WARPS = 4  # of 32 threads for a tile of 512 elements; `sru_tiling` says why

Backend = Literal["tpu", "gpu"]


@dataclasses.dataclass(frozen=True)
class Options:
  """Static choices of one call.

  Attributes:
    backend: Platform of the kernel.
    interpret: Whether to run it as plain JAX operations.
    hidden: H, the features of one direction over all shards.
    layout: How the arrays lie over the mesh; None for one device.
  """

  backend: Backend
  interpret: bool
  hidden: int
  layout: Layout | None


@partial(jax.jit, static_argnames=("backend", "interpret"))
def fused_sru(
  candidate_KxRx2H: jax.Array,
  forget_KxRx2H: jax.Array,
  reset_KxRx2H: jax.Array,
  skip_KxRx2H: jax.Array,
  cell_2x2H: jax.Array,
  bias_2x2H: jax.Array,
  *,
  backend: Backend,
  interpret: bool = False,
) -> jax.Array:
  """Bidirectional SRU over axis 0 by the fused kernel.

  Args:
    candidate_KxRx2H: u_c, float [K, R, 2 H].
    forget_KxRx2H: u_f, float [K, R, 2 H].
    reset_KxRx2H: u_r, float [K, R, 2 H].
    skip_KxRx2H: The skip of the formula, float [K, R, 2 H].
    cell_2x2H: v_f and v_r, float [2, 2 H].
    bias_2x2H: b_f and b_r, float [2, 2 H].
    backend: "tpu" or "gpu".
    interpret: Whether to run the kernel as plain JAX operations, on any platform (for tests).

  Returns:
    h [K, R, 2 H] in the dtype of `skip`. The state is float32.
  """
  _, rows, both = skip_KxRx2H.shape
  # A row of the vectors rather than a number: a shard of the columns takes its part along.
  direction = jnp.repeat(jnp.arange(2.0, dtype=jnp.float32), both // 2)[None]
  vectors = (cell_2x2H.astype(jnp.float32), bias_2x2H.astype(jnp.float32), direction)
  options = Options(backend, interpret, both // 2, layout_in_context(rows, both, "mlp"))
  sequences = (candidate_KxRx2H, forget_KxRx2H, reset_KxRx2H, skip_KxRx2H)
  return _fused(options, *sequences, jnp.concatenate(vectors, axis=0))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(options: Options, candidate, forget, reset, skip, vectors_VxC) -> jax.Array:
  inputs = (candidate, forget, reset, skip, vectors_VxC)
  return _by_shards(options, _forward_shard, inputs, (3,))[0]


def _fused_forward(options: Options, *inputs):
  return _fused(options, *inputs), inputs


def _fused_backward(options: Options, inputs, gradient):
  *sequences, vectors = inputs
  inputs = (*sequences, gradient, vectors)
  *d_sequences, d_vectors = _by_shards(options, _backward_shard, inputs, (3, 3, 3, 3, 2))
  # The directions are numbers only so that they are sharded with the columns.
  no_gradient = jnp.zeros_like(vectors[sru_steps.N_GRADIENTS :])
  return (*d_sequences, jnp.concatenate([d_vectors, no_gradient], axis=0))


_fused.defvjp(_fused_forward, _fused_backward)


def _by_shards(options: Options, function, inputs: tuple, output_ranks: tuple[int, ...]) -> Any:
  """Runs function(options, *inputs) on shards. Sequences have rank 3, vectors rank 2."""
  layout = options.layout
  if layout is None:
    return function(options, *inputs)
  specs = {
    3: PartitionSpec(None, layout.row_axes, layout.column_axes),
    2: PartitionSpec(None, layout.column_axes),
  }
  return layout.shard_map(
    partial(function, options),
    in_specs=tuple(specs[x.ndim] for x in inputs),
    out_specs=tuple(specs[rank] for rank in output_ranks),
  )(*inputs)


def _forward_shard(options: Options, *inputs):
  skip = inputs[3]
  return _launch(options, sru_steps.forward, inputs, (skip.dtype,), has_sums=False)


def _backward_shard(options: Options, *inputs):
  dtypes = tuple(x.dtype for x in inputs[:4])
  outputs = _launch(options, sru_steps.backward, inputs, dtypes, has_sums=True)
  sums_Tx4x1xC = outputs[4]
  d_vectors = jnp.sum(sums_Tx4x1xC, axis=0)[:, 0, : inputs[0].shape[-1]]
  # Rows are spread over these axes, and every device has summed only its own.
  if options.layout is not None:
    d_vectors = jax.lax.psum(d_vectors, options.layout.row_axes)
  return (*outputs[:4], d_vectors)


def _launch(options: Options, kernel, inputs, dtypes, has_sums: bool):
  """Runs a kernel over its grid.

  Its outputs are sequences of `dtypes`. With `has_sums` a sum for each tile of rows follows, and
  the kernel gets float32 scratch memory. On a TPU that is VMEM. A GPU block has no memory of that
  size, so there it is an output that nobody reads.
  """
  *sequences, vectors_VxC = inputs
  shape = k, rows, columns = sequences[0].shape
  is_tpu = options.backend == "tpu"
  bits = [jnp.dtype(x.dtype).itemsize for x in sequences] + [d.itemsize for d in dtypes]
  # A shard may begin anywhere in the 2 H columns; what matters is where in it the direction
  # changes.
  boundary = options.hidden % columns  # column at which the direction changes; 0: nowhere
  if is_tpu:
    tiling = tpu_tiling(shape, boundary, bits, has_scratch=has_sums)
  else:
    tiling = gpu_tiling(shape, boundary)
  tile = (k, tiling.rows, tiling.columns)
  grid = (pl.cdiv(rows, tiling.rows), pl.cdiv(columns, tiling.columns))
  padded = grid[1] * tiling.columns
  pad = ((0, 0), (0, padded - columns))
  # Padded by repeating the last column: unused columns of a tile must not add a direction to it.
  vectors = jnp.pad(vectors_VxC, pad, mode="edge")[:, None]
  sequence_block = pl.BlockSpec(tile, lambda i, j: (0, i, j))
  vectors_block = pl.BlockSpec((len(vectors), 1, tiling.columns), lambda i, j: (0, 0, j))
  sums_block = pl.BlockSpec((None, 4, 1, tiling.columns), lambda i, j: (i, 0, 0, j))
  shapes = [jax.ShapeDtypeStruct(shape, dtype) for dtype in dtypes]
  blocks = [sequence_block] * len(dtypes)
  # One sum a tile of rows, added up outside: tiles run in any order and could not share one.
  if has_sums:
    shapes.append(jax.ShapeDtypeStruct((grid[0], 4, 1, padded), jnp.float32))
    blocks.append(sums_block)
    if not is_tpu:
      shapes.append(jax.ShapeDtypeStruct(shape, jnp.float32))
      blocks.append(sequence_block)
  memory = partial(_tpu_memory if is_tpu else _gpu_memory, options, tiling, shape)

  # Made inside the kernel, since a tile's place, and with it what is valid, is known only there.
  def body(*refs):
    kernel(*refs, memory=memory(), mixed=tiling.mixed)

  return pl.pallas_call(
    body,
    out_shape=shapes,
    grid=grid,
    in_specs=[sequence_block] * len(sequences) + [vectors_block],
    out_specs=blocks,
    scratch_shapes=[pltpu.VMEM(tile, jnp.float32)] if is_tpu and has_sums else [],
    compiler_params=_compiler_params(is_tpu, tiling),
    cost_estimate=_cost(shape, bits, has_sums),
    interpret=options.interpret,
    name=f"sru_{kernel.__name__}",
  )(*sequences, vectors)


def _compiler_params(is_tpu: bool, tiling: Tiling):
  if not is_tpu:
    return plgpu.CompilerParams(num_warps=GPU_WARPS, num_stages=1)
  return pltpu.CompilerParams(
    # No cell waits for another, so chips with two cores may share the grid.
    dimension_semantics=("parallel", "parallel"),
    vmem_limit_bytes=tiling.memory_limit,
  )


def _cost(shape: tuple[int, ...], itemsizes: list[int], is_backward: bool) -> pl.CostEstimate:
  # XLA cannot look into a kernel. It needs these to plan what runs beside it.
  size = math.prod(shape)
  return pl.CostEstimate(
    flops=size * (50 if is_backward else 15),
    transcendentals=size * (3 if is_backward else 2),
    bytes_accessed=size * sum(itemsizes),
  )


def _tpu_memory(options: Options, tiling: Tiling, shape: tuple[int, ...]) -> sru_steps.Memory:
  """Memory of a TPU. Blocks lie in VMEM.

  A read beyond the end of the array gives any value, and a write there is dropped.
  """
  rows = shape[1]
  valid = None
  if rows % tiling.rows:
    index = jax.lax.broadcasted_iota(jnp.int32, (tiling.rows, tiling.columns), 0)
    valid = index < rows - pl.program_id(0) * tiling.rows

  def store(ref, k, value, mask):
    if mask is not None:  # what the pass of the other direction wrote must stay
      value = jnp.where(mask, value, ref[k].astype(jnp.float32))
    ref[k] = value.astype(ref.dtype)

  return sru_steps.Memory(
    load=lambda ref, k: ref[k].astype(jnp.float32),
    store=store,
    valid=valid,
    barrier=lambda: None,
    unroll=1 if options.interpret else TPU_UNROLL,
  )


def _gpu_memory(options: Options, tiling: Tiling, shape: tuple[int, ...]) -> sru_steps.Memory:
  """Memory of a GPU. Blocks are addresses in global memory.

  Each access must mask what lies beyond the end of the array.
  """
  _, rows, columns = shape
  tile = (tiling.rows, tiling.columns)
  row = pl.program_id(0) * tiling.rows + jax.lax.broadcasted_iota(jnp.int32, tile, 0)
  column = pl.program_id(1) * tiling.columns + jax.lax.broadcasted_iota(jnp.int32, tile, 1)
  valid = (row < rows) & (column < columns)

  def store(ref, k, value, mask):
    inside = valid if mask is None else valid & mask
    plgpu.store(ref.at[k], value.astype(ref.dtype), mask=inside)

  return sru_steps.Memory(
    load=lambda ref, k: plgpu.load(ref.at[k], mask=valid, other=0.0).astype(jnp.float32),
    store=store,
    valid=valid,
    barrier=(lambda: None) if options.interpret else plgpu.debug_barrier,
    unroll=1,
  )
