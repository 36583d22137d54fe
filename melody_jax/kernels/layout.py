"""How a kernel's arrays lie over the mesh in context.

A compiler partitions everything but kernels; those here are easy to partition by hand, as their
rows are independent, and so are their columns (hidden units, heads). Rows go over every axis that
is no tensor axis, columns over the tensor axis: batches and matrices are laid out like that
already, so nothing moves. A dimension that its mesh axes do not divide stays whole.

The mesh is the one in context while a function is traced (`sharding.under_mesh`). Without one a
kernel serves one device; on several, jax refuses to compile a TPU kernel and replicates a GPU one.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from melody_jax.sharding import mesh_axes_of


@dataclasses.dataclass(frozen=True)
class Layout:
  """Mesh axes that rows and columns of a kernel's arrays are laid over.

  Attributes:
    mesh: The mesh in context.
    free_axes: Names of its axes that the compiler partitions, and a kernel may use.
    row_axes: Those that rows are laid over; none: every device has all rows.
    column_axes: Those that columns are laid over; none: every device has all columns.
  """

  mesh: AbstractMesh
  free_axes: tuple[str, ...]
  row_axes: tuple[str, ...]
  column_axes: tuple[str, ...]

  def shard_map(self, function: Callable[..., Any], in_specs: Any, out_specs: Any):
    """`function` on the shards of its arguments."""
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      axis_names=set(self.free_axes),
      check_vma=False,  # kernels do not say over which axes their results vary
    )


def layout_in_context(rows: int, columns: int, column_name: str) -> Layout | None:
  """Layout of arrays over the mesh in context; None: one device has all.

  Args:
    rows: Number of rows of the whole arrays.
    columns: Number of their columns.
    column_name: Logical axis of the matrix whose products the columns are.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
  free = tuple(name for name, kind in kinds if kind == AxisType.Auto)
  tensor = mesh_axes_of((column_name,))[0]

  def shards(names):
    return math.prod(mesh.shape[name] for name in names)

  def that_divide(names, size):
    return max((names[:n] for n in range(len(names) + 1) if size % shards(names[:n]) == 0), key=len)

  if shards(free) == 1:
    return None
  return Layout(
    mesh,
    free,
    row_axes=that_divide(tuple(name for name in free if name != tensor), rows),
    column_axes=that_divide(tuple(name for name in free if name == tensor), columns),
  )
