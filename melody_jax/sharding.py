"""The device mesh and the one table that maps logical parameter axes to mesh axes.

Every parameter names its axes (`models/layers.py`); this table alone says how each
name is laid over the mesh (data, fsdp, tensor). An axis that is not in the table is
an error: nothing is replicated silently.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import ml_collections
import numpy as np

from melody_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axis (None: replicated along it).
LOGICAL_AXIS_RULES: tuple[tuple[str, str | None], ...] = (
  ("embed", "fsdp"),  # a model's width, as the input side of a matmul
  ("embed_out", None),  # a width on the output side of a square projection
  ("mlp", "tensor"),  # inner size of a feed-forward layer
  ("heads", "tensor"),  # attention heads times head size
  ("vocab", "tensor"),  # rows of an embedding table, columns of a head
  ("norm", None),  # scales and biases of norms, biases of projections
  ("kernel", None),  # taps of a convolution
  ("conv_in", "fsdp"),  # input channels of a convolution
  ("conv_out", "tensor"),  # output channels of a convolution
  ("layers", None),  # stacked layers of a scan
  ("position", None),  # learned positions
  ("gate", None),  # which matrix of a gated recurrence
  ("codebook", None),  # which codebook of a quantiser
  ("scalar", None),  # single learned numbers
)


def make_mesh(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Builds the mesh of the sizes in `config` (data, fsdp, tensor); one may be -1 (inferred).

  Args:
    config: `config.mesh` of a run.
    devices: None: all that this run has.

  Raises:
    UserError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = [config[axis] for axis in MESH_AXES]
  if any(size < 1 and size != -1 for size in sizes):
    raise UserError(f"config.mesh {sizes}: a size is at least 1, or -1 for what remains")
  if sizes.count(-1) > 1:
    raise UserError(f"config.mesh {sizes}: at most one size may be -1")
  known = int(np.prod([s for s in sizes if s != -1]))
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise UserError(
      f"config.mesh {dict(zip(MESH_AXES, sizes))} needs {int(np.prod(sizes))} devices,"
      f" this run has {len(devices)}: set one size to -1"
    )
  # Neighbours on the mesh's last axes become neighbours on the torus.
  return Mesh(mesh_utils.create_device_mesh(sizes, devices), MESH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch go over every data-parallel axis."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def batch_part_of_host(mesh: Mesh, rows: int) -> tuple[int, int]:
  """Which part of a batch of `rows` this host's devices hold: (index, count) of equal parts.

  Hosts that share a tensor-parallel group hold, and must read, the same part.

  Raises:
    UserError: rows that do not divide over the mesh, or devices of one host that hold rows apart.
  """
  lanes = mesh.shape["data"] * mesh.shape["fsdp"]
  if rows % lanes:
    raise UserError(
      f"train.batch_size {rows} does not divide over {lanes} data-parallel devices"
      f" (mesh data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']})"
    )
  slices = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
  bounds = {index[0].indices(rows)[:2] for index in slices if index}
  first, last = min(low for low, _ in bounds), max(high for _, high in bounds)
  size = last - first
  if sum(high - low for low, high in bounds) != size or rows % size or first % size:
    raise UserError(
      f"the devices of this host hold rows {sorted(bounds)} of a batch: choose mesh sizes that put"
      " whole hosts along data and fsdp"
    )
  return first // size, rows // size


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def under_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """`function` for `jax.jit` with arguments laid over `mesh`: our kernels learn of the mesh.

  The compiler partitions all else by itself; a kernel is partitioned by hand, over the mesh that
  is in context while it is traced (`kernels/layout.py`).
  """

  @functools.wraps(function)
  def on_mesh(*arguments: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return on_mesh


def mesh_axes_of(names: tuple[str | None, ...]) -> PartitionSpec:
  """Maps a parameter's logical axis names to a PartitionSpec.

  Raises:
    ValueError: for a name that LOGICAL_AXIS_RULES lacks.
  """
  rules: Mapping[str, str | None] = dict(LOGICAL_AXIS_RULES)
  mapped: list[str | None] = []
  for name in names:
    if name is None or name not in rules:
      raise ValueError(f"logical axis {name!r} has no rule in melody_jax/sharding.py")
    axis = rules[name]
    mapped.append(None if axis in mapped else axis)  # a mesh axis serves one dimension only
  return PartitionSpec(*mapped)


def state_shardings(mesh: Mesh, abstract_state: Any) -> Any:
  """Shardings of a state whose parameters are boxed with logical axis names.

  Args:
    mesh: the device mesh.
    abstract_state: pytree from `jax.eval_shape`; leaves that are `nn.LogicallyPartitioned`
      are sharded by their names (dimensions that do not divide stay whole), all
      others are replicated.
  """

  def of(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return replicated(mesh)
    spec = mesh_axes_of(leaf.names)
    shape = leaf.value.shape
    return NamedSharding(
      mesh,
      PartitionSpec(
        *[
          axis if axis is None or dim % mesh.shape[axis] == 0 else None
          for dim, axis in zip(shape, spec)
        ]
      ),
    )

  return jax.tree.map(of, abstract_state, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
