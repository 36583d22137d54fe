"""Every parameter of every model names axes that the one table knows."""

from flax import linen as nn
import jax
import pytest

from melody_jax import sharding
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
