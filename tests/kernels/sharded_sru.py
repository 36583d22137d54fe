"""Run by test_sru_pallas.py with six virtual devices: kernels in shards against the plain scan.

python -m tests.kernels.sharded_sru      prints the largest difference of each case as JSON
"""

from functools import partial
import json
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from melody_jax.kernels.sru import sru, sru_reference
from melody_jax.sharding import MESH_AXES
from tests.kernels.test_sru import _arguments


def gradients(recurrence, *arguments):
  """(six gradients, h) of a sum of sin(h)."""

  def loss(*arguments):
    h = recurrence(*arguments)
    return jnp.sum(jnp.sin(h)), h

  return jax.grad(loss, argnums=tuple(range(6)), has_aux=True)(*arguments)


def difference(kernel: str, sizes: tuple[int, int, int], rows: int) -> float:
  """Largest over the six gradients and h."""
  arguments = _arguments(0, 3, rows, 6)
  devices = np.asarray(jax.devices()[: math.prod(sizes)]).reshape(sizes)
  mesh = Mesh(devices, MESH_AXES)
  by_rows = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp") if rows > 1 else None))
  placed = [jax.device_put(a, by_rows if a.ndim == 3 else None) for a in arguments]

  @jax.jit
  def on_mesh(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return gradients(partial(sru, implementation=kernel, interpret=True), *arguments)

  assert "manual_computation" in on_mesh.lower(*placed).as_text()
  pairs = zip(
    jax.tree.leaves(on_mesh(*placed)),
    jax.tree.leaves(gradients(sru_reference, *arguments)),
    strict=True,
  )
  return max(float(jnp.max(jnp.abs(jax.device_get(a) - b))) for a, b in pairs)


def main() -> None:
  found = {
    "rows and columns": difference("pallas_tpu", (1, 2, 2), rows=8),
    "a shard with both directions": difference("pallas_gpu", (1, 2, 3), rows=2),
    "rows that do not divide": difference("pallas_gpu", (2, 1, 2), rows=1),
  }
  print(json.dumps(found))


if __name__ == "__main__":
  main()
