"""Every parameter of every model names axes that the one table knows."""

import types

from flax import linen as nn
import jax
import ml_collections
import numpy as np
import pytest

from melody_jax import sharding
from melody_jax.errors import UserError
from melody_jax.task import TASKS, make_task
from tests.configs import load_config


@pytest.mark.parametrize("name", TASKS)
def test_every_parameter_names_known_axes(name):
  task = make_task(load_config(name, "tiny"))
  boxed = jax.eval_shape(task.init, jax.random.key(0))

  def is_box(x):
    return isinstance(x, nn.LogicallyPartitioned)

  for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
    assert is_box(leaf), f"{jax.tree_util.keystr(path)} names no axes"
    assert len(leaf.names) == leaf.value.ndim, jax.tree_util.keystr(path)
    sharding.mesh_axes_of(leaf.names)


def test_unknown_axis_is_an_error():
  with pytest.raises(ValueError, match="has no rule"):
    sharding.mesh_axes_of(("embed", "typo"))


def test_a_mesh_axis_serves_one_dimension():
  assert sharding.mesh_axes_of(("mlp", "heads")) == jax.sharding.PartitionSpec("tensor", None)


class Chip:
  """A device of a TPU slice as far as a mesh looks at it."""

  platform, device_kind, core_on_chip = "tpu", "TPU v5 lite", 0

  def __init__(self, index, slice_index, side):
    self.id, self.slice_index = index, slice_index
    self.process_index = index // 4
    place = index % side**2
    self.coords = (place % side, place // side, 0)


def slices_of(n, side=4):
  return [Chip(s * side**2 + i, s, side) for s in range(n) for i in range(side**2)]


def sizes(data, fsdp, tensor):
  return ml_collections.ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor})


@pytest.mark.parametrize("wanted", [(2, 16, 1), (-1, 4, 2), (8, 2, 2), (32, 1, 1), (1, 32, 1)])
def test_tensor_and_fsdp_stay_inside_a_slice_where_data_can_hold_the_slices(wanted):
  devices = slices_of(2)
  mesh = sharding.make_mesh(sizes(*wanted), devices[::-1])
  assert sorted(d.id for d in mesh.devices.flat) == list(range(32))
  of = np.vectorize(lambda d: d.slice_index)(mesh.devices)
  outer = 0 if wanted[0] != 1 else 1
  # The slowest axis that is there holds one slice after the other; along the others it is one.
  blocks = np.split(of, 2, axis=outer)
  assert all(len(np.unique(block)) == 1 for block in blocks)
  assert len(np.unique(of)) == 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_two_sizes_left_open_data_holds_the_slices_and_fsdp_the_chips_of_each(n):
  mesh = sharding.make_mesh(sizes(-1, -1, 2), slices_of(n))
  assert dict(mesh.shape) == {"data": n, "fsdp": 8, "tensor": 2}
  of = np.vectorize(lambda d: d.slice_index)(mesh.devices)
  assert all(len(np.unique(block)) == 1 for block in of)
  with pytest.raises(UserError, match="only data and fsdp may both be -1"):
    sharding.make_mesh(sizes(-1, 1, -1), slices_of(n))


@pytest.mark.parametrize("wanted", [(1, 8, 2), (-1, 4, 1), (2, 2, 4), (16, 1, 1)])
def test_a_mesh_may_cut_an_axis_of_the_torus(wanted):
  mesh = sharding.make_mesh(sizes(*wanted), slices_of(1))
  assert sorted(d.id for d in mesh.devices.flat) == list(range(16))
  # Neighbours on the last axis talk most: they lie beside each other.
  for row in mesh.devices.reshape(-1, mesh.devices.shape[-1]):
    places = np.array([d.coords for d in row])
    assert np.ptp(places, axis=0).sum() < max(4, len(row))


def test_slices_that_the_mesh_cannot_hold_are_refused():
  with pytest.raises(UserError, match="cannot be laid over 3 slices: make data a multiple of 3"):
    sharding.make_mesh(sizes(16, 1, 3), slices_of(3))


def test_gpus_without_a_common_link_take_any_mesh():
  devices = slices_of(3)
  for device in devices:
    device.platform = "gpu"
  mesh = sharding.make_mesh(sizes(16, 1, 3), devices)
  assert [d.id for d in mesh.devices.flat] == list(range(48))


def hosts_of_squares(side=16):
  """Devices of a slice whose hosts have 2 x 2 chips each, as v5e has them."""
  devices = slices_of(1, side)
  for device in devices:
    x, y, _ = device.coords
    device.process_index = x // 2 + y // 2 * (side // 2)
  return devices


# Four chips of a tensor group lie side by side in two hosts, which hold the group below as well.
@pytest.mark.parametrize(
  ("wanted", "expected"),
  [((-1, 1, 1), 64), ((-1, -1, 1), 64), ((-1, 16, 1), 64), ((-1, 4, 4), 32), ((4, 8, 8), 16)],
)
def test_every_row_of_a_batch_is_some_hosts_on_a_pod(wanted, expected):
  mesh = sharding.make_mesh(sizes(*wanted), hosts_of_squares())
  parts = sharding.parts_of_hosts(mesh.devices)
  assert len(parts) == 64
  ((count),) = {n for _, n in parts.values()}
  # Hosts of one tensor group read the same; all others read something of their own.
  assert sorted({index for index, _ in parts.values()}) == list(range(count))
  assert count == expected


def test_hosts_whose_rows_overlap_are_refused():
  devices = np.array(
    [[[types.SimpleNamespace(process_index=i) for i in row]] for row in ((0, 1), (1, 2), (2, 0))]
  )
  with pytest.raises(UserError, match="parts of a batch that overlap"):
    sharding.parts_of_hosts(devices)
