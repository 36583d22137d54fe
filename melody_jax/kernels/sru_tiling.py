"""Tile sizes of the fused SRU kernels.

Shape letters: K sequence, R rows, C columns of one shard.
"""

import dataclasses
import math

LANES = 128
TPU_MEMORY = 16 * 2**20  # bytes: every TPU grants a kernel as much
TPU_BLOCKS = 12 * 2**20  # bytes for blocks: the compiler spills into the rest
TPU_STEP = 4096  # elements of one step: 4 registers of 64 a value, some 15 values live
GPU_TILE = (4, 128)  # rows, columns: 4 elements a thread


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Size of a tile.

  Attributes:
    rows, columns: Rows and columns of a tile; the last tiles may reach beyond the array.
    mixed: Whether a tile may hold columns of both directions.
    memory_limit: Bytes of on-chip memory that the kernel asks for.
  """

  rows: int
  columns: int
  mixed: bool
  memory_limit: int = 0


def tpu_tiling(
  shape_KxRxC: tuple[int, int, int], boundary: int, itemsizes: list[int], has_scratch: bool
) -> Tiling:
  """The largest tile of whole registers that fits the budget with all K steps.

  Args:
    shape_KxRxC: Shape (K, R, C) of the sequences in one shard.
    boundary: Column where the direction changes; 0: nowhere.
    itemsizes: Bytes per element of each sequence read or written; the pipeline holds two
      blocks of each.
    has_scratch: Whether a tile has one float32 block more.

  Returns:
    The tiling; `memory_limit` grows with K where even the smallest tile is over the budget.
  """
  k, rows, columns = shape_KxRxC
  sublanes = 32 // min(itemsizes)
  step_bytes = k * (2 * sum(itemsizes) + 4 * has_scratch)  # per row and column of a tile
  widest = min(TPU_STEP // sublanes, TPU_BLOCKS // (step_bytes * sublanes))
  tile_columns = _columns(columns, boundary, widest)
  lanes = -(-tile_columns // LANES) * LANES
  most = min(TPU_STEP // lanes, TPU_BLOCKS // (step_bytes * lanes)) // sublanes * sublanes
  tile_rows = min(rows, max(most, sublanes))
  held = step_bytes * lanes * -(-tile_rows // sublanes) * sublanes
  # A K far beyond a segment's needs more than the budget even with the smallest tile.
  limit = max(TPU_MEMORY, held + TPU_MEMORY - TPU_BLOCKS)
  return Tiling(tile_rows, tile_columns, boundary % tile_columns != 0, limit)


def _columns(columns: int, boundary: int, widest: int) -> int:
  """A multiple of LANES up to `widest` that ends tiles where the direction changes, if any can.

  If none can, LANES: then one tile alone holds both directions and pays for two passes.
  """
  if columns <= LANES:
    return columns
  both = math.gcd(columns, boundary)
  widths = [w for w in range(LANES, widest + 1, LANES) if both % w == 0]
  return max(widths, default=LANES)


def gpu_tiling(shape_KxRxC: tuple[int, int, int], boundary: int) -> Tiling:
  """A tile of powers of two, as Triton asks; small, since occupancy hides a step's latency.

  Args:
    shape_KxRxC: Shape (K, R, C) of the sequences in one shard.
    boundary: Column where the direction changes; 0: nowhere.
  """
  columns = min(GPU_TILE[1], 1 << (shape_KxRxC[2] - 1).bit_length())
  return Tiling(GPU_TILE[0], columns, boundary % columns != 0)
