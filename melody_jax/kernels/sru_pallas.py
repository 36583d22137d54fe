"""The SRU recurrence as one fused kernel: TPU (Mosaic) and GPU (Triton), with its own gradient.

`fused_sru` has the arguments of `sru.sru`. Both directions and both gates run in one pass: h
costs one read of the four sequences and one write. The backward kernel recomputes c from the
same four sequences, so that nothing else is kept from the forward pass, and writes their four
gradients at once; gradients of the vectors leave it as one sum per row tile.

A grid cell owns [K, row tile, column tile] with all of K on chip; `sru_steps` says what it does,
`sru_tiling` how large it is. K, R and H need not divide by anything.

Sharding (`layout`): R over every axis that is no tensor axis, 2H over the tensor axis, K whole;
gradients of the vectors are summed over the row axes. A shard of 2H may hold columns of one
direction or of both: each column carries its direction with it.

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

TPU_UNROLL = 4
GPU_WARPS = 4

Backend = Literal["tpu", "gpu"]


@dataclasses.dataclass(frozen=True)
class Options:
  """Static choices of one call.

  Attributes:
    backend: Accelerator whose kernel runs.
    interpret: Whether it runs as plain JAX operations.
    hidden: Hidden size H of one direction, over all shards.
    layout: Layout over the mesh; None: one device.
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
  """Bidirectional SRU as one fused kernel; arrays as in `sru.sru`.

  Args:
    candidate_KxRx2H, forget_KxRx2H, reset_KxRx2H, skip_KxRx2H: Sequences.
    cell_2x2H, bias_2x2H: Weights of the gates.
    backend: Accelerator whose kernel runs.
    interpret: Whether it runs as plain JAX operations, on any platform (tests).

  Returns:
    h [K, R, 2 H] in the dtype of `skip`; the state is float32.
  """
  _, rows, both = skip_KxRx2H.shape
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
  no_gradient = jnp.zeros_like(vectors[sru_steps.N_GRADIENTS :])
  return (*d_sequences, jnp.concatenate([d_vectors, no_gradient], axis=0))


_fused.defvjp(_fused_forward, _fused_backward)


def _by_shards(options: Options, function, inputs: tuple, output_ranks: tuple[int, ...]) -> Any:
  """function(options, *inputs) on shards; sequences have rank 3, vectors rank 2."""
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
  if options.layout is not None:
    d_vectors = jax.lax.psum(d_vectors, options.layout.row_axes)
  return (*outputs[:4], d_vectors)


def _launch(options: Options, kernel, inputs, dtypes, has_sums: bool):
  """The kernel over its grid: sequences of `dtypes`, then with `has_sums` one sum per row tile.

  `has_sums` also gives the kernel its float32 scratch: on a TPU in VMEM, on a GPU, where a block
  has no memory of that size, in an output that nobody reads.
  """
  *sequences, vectors_VxC = inputs
  shape = k, rows, columns = sequences[0].shape
  is_tpu = options.backend == "tpu"
  bits = [jnp.dtype(x.dtype).itemsize for x in sequences] + [d.itemsize for d in dtypes]
  boundary = options.hidden % columns  # where in this shard columns turn around, if at all
  if is_tpu:
    tiling = tpu_tiling(shape, boundary, bits, has_scratch=has_sums)
  else:
    tiling = gpu_tiling(shape, boundary)
  tile = (k, tiling.rows, tiling.columns)
  grid = (pl.cdiv(rows, tiling.rows), pl.cdiv(columns, tiling.columns))
  padded = grid[1] * tiling.columns
  pad = ((0, 0), (0, padded - columns))
  # By repeating the last column: a tile's unused columns must not seem to add a direction.
  vectors = jnp.pad(vectors_VxC, pad, mode="edge")[:, None]
  sequence_block = pl.BlockSpec(tile, lambda i, j: (0, i, j))
  vectors_block = pl.BlockSpec((len(vectors), 1, tiling.columns), lambda i, j: (0, 0, j))
  sums_block = pl.BlockSpec((None, 4, 1, tiling.columns), lambda i, j: (i, 0, 0, j))
  shapes = [jax.ShapeDtypeStruct(shape, dtype) for dtype in dtypes]
  blocks = [sequence_block] * len(dtypes)
  if has_sums:
    shapes.append(jax.ShapeDtypeStruct((grid[0], 4, 1, padded), jnp.float32))
    blocks.append(sums_block)
    if not is_tpu:
      shapes.append(jax.ShapeDtypeStruct(shape, jnp.float32))
      blocks.append(sequence_block)
  memory = partial(_tpu_memory if is_tpu else _gpu_memory, options, tiling, shape)

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
    dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=tiling.memory_limit
  )


def _cost(shape: tuple[int, ...], itemsizes: list[int], is_backward: bool) -> pl.CostEstimate:
  size = math.prod(shape)
  return pl.CostEstimate(
    flops=size * (50 if is_backward else 15),
    transcendentals=size * (3 if is_backward else 2),
    bytes_accessed=size * sum(itemsizes),
  )


def _tpu_memory(options: Options, tiling: Tiling, shape: tuple[int, ...]) -> sru_steps.Memory:
  """Blocks lie in VMEM; reads beyond the array's end give anything, writes there are dropped."""
  rows = shape[1]
  valid = None
  if rows % tiling.rows:
    index = jax.lax.broadcasted_iota(jnp.int32, (tiling.rows, tiling.columns), 0)
    valid = index < rows - pl.program_id(0) * tiling.rows

  def store(ref, k, value, mask):
    if mask is not None:
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
  """Blocks are addresses in global memory: every access masks what lies beyond the array's end."""
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
