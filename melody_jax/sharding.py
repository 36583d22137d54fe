"""The device mesh, and the one table that maps logical parameter axes to mesh axes.

Every parameter names its axes (`models/layers.py`). This table alone says how a name is laid over
the mesh (data, fsdp, tensor). A name that is not in the table is an error, so that nothing is
replicated without anyone noticing.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
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
  """Builds the device mesh of a run.

  Args:
    config: `config.mesh`: the sizes data, fsdp and tensor. One of them may be -1; it then gets all
      devices that are left. Where data and fsdp both are, data gets the slices and fsdp the rest.
    devices: Devices of the mesh; None means all of this run.

  Several TPU slices (or hosts of GPUs without a common NVLink) are joined by a network that is
  slower by far than the links inside one. They are laid along data, whose devices talk once a step,
  and what data cannot hold along fsdp; tensor stays inside a slice.

  Raises:
    UserError: if the product of the sizes is not the number of devices, or the slices do not divide
      data x fsdp.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = [config[axis] for axis in MESH_AXES]
  if any(size < 1 and size != -1 for size in sizes):
    raise UserError(f"config.mesh {sizes}: a size is at least 1, or -1 for what remains")
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if sizes[0] == sizes[1] == -1:
    # Rows and parameters are shared out inside a slice, whatever its size; see `_over_slices`.
    sizes[0] = slices
  # Two unknowns have no single answer.
  if sizes.count(-1) > 1:
    raise UserError(f"config.mesh {sizes}: only data and fsdp may both be -1")
  known = int(np.prod([s for s in sizes if s != -1]))
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if int(np.prod(sizes)) != len(devices):
    raise UserError(
      f"config.mesh {dict(zip(MESH_AXES, sizes))} needs {int(np.prod(sizes))} devices,"
      f" this run has {len(devices)}: set one size to -1"
    )
  if slices > 1:
    return Mesh(_over_slices(sizes, slices, devices), MESH_AXES)
  # This puts neighbours on the last mesh axes, which talk most, beside each other on the torus.
  # An axis may be cut where the sizes ask for it, as tensor 2 of a torus of 4 x 4 does.
  layout = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return Mesh(layout, MESH_AXES)


def _over_slices(sizes: list[int], slices: int, devices: Sequence[jax.Device]) -> np.ndarray:
  """Devices of several slices as an array of the mesh's sizes."""
  data, fsdp, _ = sizes
  outer = [math.gcd(data, slices), 1, 1]
  outer[1] = slices // outer[0]
  if fsdp % outer[1]:
    # Devices of other kinds have no torus: any order of them is a mesh.
    if devices[0].platform != "tpu":
      return np.asarray(devices).reshape(sizes)
    raise UserError(
      f"config.mesh {dict(zip(MESH_AXES, sizes))} cannot be laid over {slices} slices: make data a"
      f" multiple of {slices}, so that tensor and fsdp stay inside a slice"
    )
  inner = [size // n for size, n in zip(sizes, outer, strict=True)]
  return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of a batch: rows over both data-parallel axes, data and fsdp."""
  # fsdp shards parameters, but its devices work on different rows, as those of data do.
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def by_rows(x: jax.Array, axis: int = 0) -> jax.Array:
  """The same array, laid over the mesh in context by its rows, as batches are.

  Parameters that `fsdp` shards are to be gathered where they are used. Without this at the joints
  of a network XLA may keep them in parts instead and add up whole activations over the devices, in
  every product: ten times the traffic, at the sizes of the paper's LM.

  Args:
    x: Activations [rows, ...].
    axis: Their axis of rows, if it is not the first. Where the devices do not divide it, nothing is
      asked for.
  """
  mesh = jax.sharding.get_abstract_mesh()
  # Encoders set a mesh of their own, and a kernel's shards have none.
  if not {"data", "fsdp"} <= set(mesh.axis_names):
    return x
  lanes = mesh.shape["data"] * mesh.shape["fsdp"]
  if lanes == 1 or x.shape[axis] % lanes:
    return x
  spec = PartitionSpec(*[None] * axis, ("data", "fsdp"))
  return jax.lax.with_sharding_constraint(x, spec)


def parts_of_hosts(devices_DxFxT: np.ndarray) -> dict[int, tuple[int, int]]:
  """Finds the part of a batch that the devices of each host hold.

  A part need not be rows that follow each other: on a slice of TPUs a host has a square of chips,
  and the mesh runs along the torus. Rows of a batch are in no order, so that this is all the same.

  Args:
    devices_DxFxT: Devices of the mesh [data, fsdp, tensor].

  Returns:
    {process: (index, count)}: part number `index` of `count` equal parts, which together are the
    batch. Hosts that share a tensor-parallel group hold the same part, and read the same rows.

  Raises:
    UserError: if two hosts hold parts that overlap and are not the same.
  """
  # A lane is what holds rows of its own: the devices of one tensor group.
  lanes = devices_DxFxT.reshape(-1, devices_DxFxT.shape[-1])
  held: dict[int, set[int]] = {}
  for lane, group in enumerate(lanes):
    for device in group:
      held.setdefault(device.process_index, set()).add(lane)
  parts = sorted({tuple(sorted(of_host)) for of_host in held.values()})
  # What the input pipeline reads for a host is one of several equal parts.
  if len({len(part) for part in parts}) != 1 or sum(map(len, parts)) != len(lanes):
    raise UserError(
      f"the devices of hosts hold parts of a batch that overlap, {parts[:2]}: choose mesh sizes"
      " that put whole hosts along data and fsdp, or along tensor"
    )
  return {host: (parts.index(tuple(sorted(own))), len(parts)) for host, own in held.items()}


def batch_part_of_host(mesh: Mesh, rows: int) -> tuple[int, int]:
  """Finds the part of a batch that the devices of this host hold; see `parts_of_hosts`.

  Args:
    mesh: Mesh of the run.
    rows: Number of rows of the whole batch.

  Returns:
    (index, count): part number `index` of `count` equal parts.

  Raises:
    UserError: if the rows do not divide over the mesh, or the parts of hosts overlap.
  """
  # Devices of one tensor group share their rows, so they count once.
  lanes = mesh.shape["data"] * mesh.shape["fsdp"]
  if rows % lanes:
    raise UserError(
      f"train.batch_size {rows} does not divide over {lanes} data-parallel devices"
      f" (mesh data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}): take a multiple of {lanes}"
    )
  return parts_of_hosts(mesh.devices)[jax.process_index()]


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of an array that every device holds as a whole."""
  return NamedSharding(mesh, PartitionSpec())


def under_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """Wraps a function for `jax.jit` so that our kernels in it know the mesh.

  The compiler partitions everything else by itself. A kernel is partitioned by hand, over the mesh
  that is set while the function is traced (`kernels/layout.py`).

  Args:
    mesh: Mesh that the arguments are laid over.
    function: Function to wrap.
  """

  @functools.wraps(function)
  def on_mesh(*arguments: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return on_mesh


def mesh_axes_of(names: tuple[str | None, ...]) -> PartitionSpec:
  """Maps the logical axis names of a parameter to a PartitionSpec.

  Raises:
    ValueError: if LOGICAL_AXIS_RULES lacks a name.
  """
  rules: Mapping[str, str | None] = dict(LOGICAL_AXIS_RULES)
  mapped: list[str | None] = []
  for name in names:
    # An unnamed axis would be replicated without a word, and the memory of a large model with it.
    if name is None or name not in rules:
      raise ValueError(f"logical axis {name!r} has no rule in melody_jax/sharding.py")
    axis = rules[name]
    mapped.append(None if axis in mapped else axis)  # a mesh axis serves one dimension only
  return PartitionSpec(*mapped)


def state_shardings(mesh: Mesh, abstract_state: Any) -> Any:
  """Shardings of a state whose parameters are boxed with logical axis names.

  Args:
    mesh: Mesh of the run.
    abstract_state: Pytree from `jax.eval_shape`. Leaves that are `nn.LogicallyPartitioned` are
      sharded by their names, except along dimensions that do not divide; all others are replicated.

  Returns:
    NamedShardings in the tree structure of the state.
  """

  def of(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return replicated(mesh)
    # A dimension that does not divide stays whole: padding it would change the parameter.
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
