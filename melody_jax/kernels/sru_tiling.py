"""Sizes of the tiles of the fused SRU kernels.

A tile holds all K steps, so its other sides are what on-chip memory allows. Shape letters: K
sequence, R rows, C columns of one shard.
"""

import dataclasses
import math

LANES = 128  # of a TPU register
TPU_MEMORY = 16 * 2**20  # bytes that every TPU grants a kernel
TPU_BLOCKS = 12 * 2**20  # bytes for blocks; the rest is for values that the compiler spills
# Elements of one step. A value then takes 4 registers of 64, and about 15 values live at once.
TPU_STEP = 4096
GPU_TILE = (4, 128)  # rows, columns: 4 elements for each thread of 4 warps


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Size of a tile.

  Attributes:
    rows, columns: Rows and columns of a tile. The last tiles may reach beyond the array.
    mixed: Whether a tile may hold columns of both directions.
    memory_limit: Bytes of on-chip memory that the kernel asks for (TPU only).
  """

  rows: int
  columns: int
  mixed: bool
  memory_limit: int = 0


def tpu_tiling(
  shape_KxRxC: tuple[int, int, int], boundary: int, itemsizes: list[int], has_scratch: bool
) -> Tiling:
  """Largest tile of whole registers that fits into on-chip memory with all K steps.

  Args:
    shape_KxRxC: Shape (K, R, C) of the sequences.
    boundary: Column at which the direction changes; 0 means nowhere.
    itemsizes: Bytes of an element, for each sequence that is read or written.
    has_scratch: Whether the kernel needs one more block, in float32.
  """
  k, rows, columns = shape_KxRxC
  # A register holds 8 rows of 32 bits, 16 of 16 bits, and so on.
  sublanes = 32 // min(itemsizes)
  # For each row and column of a tile. Twice, because the next tile is read while this one runs.
  step_bytes = k * (2 * sum(itemsizes) + 4 * has_scratch)
  widest = min(TPU_STEP // sublanes, TPU_BLOCKS // (step_bytes * sublanes))
  tile_columns = _columns(columns, boundary, widest)
  lanes = -(-tile_columns // LANES) * LANES
  most = min(TPU_STEP // lanes, TPU_BLOCKS // (step_bytes * lanes)) // sublanes * sublanes
  # At least one register's rows, even where the budget has no room for them.
  tile_rows = min(rows, max(most, sublanes))
  held = step_bytes * lanes * -(-tile_rows // sublanes) * sublanes
  # With a very long K even the smallest tile needs more than the budget.
  limit = max(TPU_MEMORY, held + TPU_MEMORY - TPU_BLOCKS)
  return Tiling(tile_rows, tile_columns, boundary % tile_columns != 0, limit)


def _columns(columns: int, boundary: int, widest: int) -> int:
  """Width of a tile: the largest multiple of LANES up to `widest` that divides both directions.

  If there is none, LANES. Then only one tile holds both directions, and takes two passes.
  """
  if columns <= LANES:
    return columns
  both = math.gcd(columns, boundary)
  widths = [w for w in range(LANES, widest + 1, LANES) if both % w == 0]
  return max(widths, default=LANES)


def gpu_tiling(shape_KxRxC: tuple[int, int, int], boundary: int) -> Tiling:
  """Tile for a GPU. Both sides are powers of two, as Triton demands.

  The tile is small, since many blocks at once hide the wait for memory in each step.

  Args:
    shape_KxRxC: Shape (K, R, C) of the sequences.
    boundary: Column at which the direction changes; 0 means nowhere.
  """
  columns = min(GPU_TILE[1], 1 << (shape_KxRxC[2] - 1).bit_length())
  return Tiling(GPU_TILE[0], columns, boundary % columns != 0)
