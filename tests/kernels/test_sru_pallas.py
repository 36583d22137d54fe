"""The fused SRU kernels, interpreted, against the plain scan; lowered for TPU, CUDA and ROCm."""

from functools import partial
import json

import jax
from jax import export
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from melody_jax.kernels import sru_tiling
from melody_jax.kernels.sru import sru, sru_reference
from tests.kernels.test_sru import _arguments
from tests.training.processes import start

KERNELS = ("pallas_tpu", "pallas_gpu")
# Where a kernel shows in a lowered program.
CALLS = {"tpu": "tpu_custom_call", "cuda": "__gpu$xla.gpu.triton", "rocm": "__gpu$xla.gpu.triton"}


def _interpreted(kernel: str):
  return partial(sru, implementation=kernel, interpret=True)


def _gradients(recurrence, arguments, weights):
  """(six gradients, h) of a weighted sum of sin(h)."""

  def loss(*arguments):
    h = recurrence(*arguments)
    return jnp.sum(weights * jnp.sin(h.astype(jnp.float32))), h

  return jax.jit(jax.grad(loss, argnums=tuple(range(6)), has_aux=True))(*arguments)


def _shapes(k, rows, hidden, dtype):
  sequence = jax.ShapeDtypeStruct((k, rows, 2 * hidden), dtype)
  vector = jax.ShapeDtypeStruct((2, 2 * hidden), jnp.float32)
  return (sequence,) * 4 + (vector,) * 2


DRAWN = [tuple(np.random.default_rng(seed).integers(1, (20, 40, 90)).tolist()) for seed in (0, 1)]


# One tile; tiles that reach beyond rows and columns, one with both directions; one per direction;
# any.
@pytest.mark.parametrize("k, rows, hidden", [(3, 1, 1), (7, 37, 70), (4, 5, 128), *DRAWN])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_plain_scan_with_gradients(kernel, k, rows, hidden):
  arguments = _arguments(3, k, rows, hidden)
  weights = jax.random.normal(jax.random.key(4), arguments[0].shape)
  got, want = (_gradients(f, arguments, weights) for f in (_interpreted(kernel), sru_reference))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_keeps_dtypes_and_a_float32_state(kernel):
  *sequences, cell, bias = _arguments(5, 20, 3, 9)
  arguments = (*(a.astype(jnp.bfloat16) for a in sequences), cell, bias)
  weights = jax.random.normal(jax.random.key(6), arguments[0].shape)
  gradients, h = _gradients(_interpreted(kernel), arguments, weights)
  assert h.dtype == jnp.bfloat16
  assert [g.dtype for g in gradients] == [a.dtype for a in arguments]
  exact = tuple(a.astype(jnp.float32) for a in arguments)
  want = _gradients(sru_reference, exact, weights)
  for a, b in zip(jax.tree.leaves((gradients, h)), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_under_vmap(kernel):
  arguments = [jnp.stack(pair) for pair in zip(_arguments(7, 3, 2, 3), _arguments(8, 3, 2, 3))]
  got = jax.jit(jax.vmap(_interpreted(kernel)))(*arguments)
  np.testing.assert_allclose(got, jax.vmap(sru_reference)(*arguments), atol=1e-5)


@pytest.mark.parametrize("platform", CALLS)
@pytest.mark.parametrize(
  "k, rows, hidden, dtype",
  [(64, 640, 768, "bfloat16"), (64, 640, 768, "float32"), (3, 21, 65, "float32")],
)
def test_each_platform_gets_its_kernel(platform, k, rows, hidden, dtype):
  def loss(*arguments):
    return jnp.sum(jax.checkpoint(sru)(*arguments).astype(jnp.float32))

  gradient = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(6))))
  allowed = [export.DisabledSafetyCheck.custom_call(CALLS[platform])]
  program = export.export(gradient, platforms=[platform], disabled_checks=allowed)(
    *_shapes(k, rows, hidden, jnp.dtype(dtype))
  )
  text = program.mlir_module()
  # One for h, one for the gradients, which need no h: remat recomputes nothing.
  assert text.count(f"@{CALLS[platform]}(") == 2
  assert "stablehlo.while" not in text


def test_without_an_accelerator_it_is_the_scan_and_holds_no_more():
  def compiled(implementation):
    recurrence = partial(sru, implementation=implementation)
    gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(recurrence(*a))), argnums=tuple(range(6)))
    return jax.jit(gradient).lower(*arguments).compile()

  arguments = _arguments(9, 6, 4, 5)
  auto, scan = compiled("auto"), compiled("scan")
  held = [program.memory_analysis().temp_size_in_bytes for program in (auto, scan)]
  assert held[0] == held[1]
  for a, b in zip(auto(*arguments), scan(*arguments), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sizes", [(1, 2, 2), (2, 2, 1), (1, 1, 3)])
def test_a_mesh_splits_rows_and_columns(sizes):
  mesh = AbstractMesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
  shards = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"), "tensor"))
  arguments = _shapes(64, 640, 768, jnp.bfloat16)
  with jax.sharding.use_abstract_mesh(mesh):
    function = jax.jit(
      sru, in_shardings=(shards,) * 4 + (NamedSharding(mesh, PartitionSpec()),) * 2
    )
    text = export.export(function, platforms=["tpu"])(*arguments).mlir_module()
  data, fsdp, tensor = sizes
  local = f"tensor<64x{640 // (data * fsdp)}x{1536 // tensor}xbf16>"
  calls = [line.split(" loc(")[0] for line in text.splitlines() if "@tpu_custom_call(" in line]
  (call,) = calls
  assert call.endswith(f"-> {local}") and call.count(local) == 5


def test_shards_equal_the_whole():
  process = start(["-m", "tests.kernels.sharded_sru"], devices=6)
  said, errors = process.communicate(timeout=600)
  assert process.returncode == 0, errors
  differences = json.loads(said.splitlines()[-1])
  assert len(differences) == 3 and max(differences.values()) < 1e-5


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(
  "columns, boundary",
  [(1536, 768), (768, 0), (1024, 512), (258, 129), (200, 100), (512, 256), (300, 0), (1000, 250)],
)
@pytest.mark.parametrize("k, rows", [(64, 640), (7, 21), (300, 33)])
def test_tpu_tiles(k, rows, columns, boundary, itemsize):
  for sequences, has_scratch in ((5, False), (9, True)):
    tiling = sru_tiling.tpu_tiling(
      (k, rows, columns), boundary, [itemsize] * sequences, has_scratch
    )
    assert tiling.rows == rows or tiling.rows % (32 // itemsize) == 0
    assert tiling.columns == columns or tiling.columns % sru_tiling.LANES == 0
    turns_inside = boundary % tiling.columns != 0
    assert tiling.mixed == turns_inside
    if boundary % sru_tiling.LANES == 0 and columns % sru_tiling.LANES == 0:
      assert not tiling.mixed
    lanes = -(-tiling.columns // sru_tiling.LANES) * sru_tiling.LANES
    held = k * tiling.rows * lanes * (2 * sequences * itemsize + 4 * has_scratch)
    assert held < tiling.memory_limit
    if k <= 64:
      assert tiling.memory_limit == sru_tiling.TPU_MEMORY


def test_unknown_implementation_is_named():
  with pytest.raises(ValueError, match=r"'triton': it must be one of auto, scan, pallas_tpu"):
    sru(*_arguments(), implementation="triton")
