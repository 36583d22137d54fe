"""How the arrays of a kernel are spread over the mesh in context.

XLA can divide every operation among devices, but not a kernel. The kernels here are easy to divide
by hand, because their rows do not depend on each other, and neither do their columns (hidden units
or heads). Rows are spread over all mesh axes but the tensor axis, columns over the tensor axis.
Batches and matrices already lie like that, so no data move. A dimension that its mesh axes do not
divide stays whole.

The mesh is the one in context while a function is traced (`sharding.under_mesh`). Without a mesh a
kernel serves one device. On several devices jax would then refuse to compile a TPU kernel, and
would run a GPU kernel on all data on each device.
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
  """Mesh axes over which the rows and columns of a kernel's arrays are spread.

  Attributes:
    mesh: Mesh in context.
    free_axes: Axes that no surrounding `shard_map` has taken already.
    row_axes: Free axes for the rows. Empty: the rows stay whole.
    column_axes: Free axes for the columns. Empty: the columns stay whole.
  """

  mesh: AbstractMesh
  free_axes: tuple[str, ...]
  row_axes: tuple[str, ...]
  column_axes: tuple[str, ...]

  def shard_map(self, function: Callable[..., Any], in_specs: Any, out_specs: Any):
    """Makes a function that runs `function` on the shard of each device.

    Args:
      function: Function of arrays.
      in_specs: Partition spec of each argument.
      out_specs: Partition specs of the results.
    """
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      axis_names=set(self.free_axes),
      check_vma=False,  # a kernel does not declare over which axes its results vary
    )


def layout_in_context(rows: int, columns: int, column_name: str) -> Layout | None:
  """Finds the layout for a kernel in the mesh in context.

  Args:
    rows: Number of rows of the whole arrays.
    columns: Number of columns of the whole arrays.
    column_name: Logical axis of the columns ("mlp", "heads"). It tells the mesh axis.

  Returns:
    The layout, or None if one device has everything.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
  # Axes of a surrounding shard_map are manual: there the arrays are shards already.
  free = tuple(name for name, kind in kinds if kind == AxisType.Auto)
  tensor = mesh_axes_of((column_name,))[0]

  def shards(names):
    return math.prod(mesh.shape[name] for name in names)

  def that_divide(names, size):
    return max((names[:n] for n in range(len(names) + 1) if size % shards(names[:n]) == 0), key=len)

  if shards(free) == 1:
    return None
  # Rows may lie over several axes, columns over the tensor axis alone, as the weights do.
  return Layout(
    mesh,
    free,
    row_axes=that_divide(tuple(name for name in free if name != tensor), rows),
    column_axes=that_divide(tuple(name for name in free if name == tensor), columns),
  )
