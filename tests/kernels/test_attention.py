"""Attention: the formula against jax's own, the TPU's kernel against the formula, who gets what."""

from functools import partial

import jax
from jax import export
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from melody_jax.kernels import attention as kernels
from melody_jax.kernels.attention import attention, attention_reference

# How a library's call shows in a lowered program, forward and backward.
CALLS = {
  "tpu": ("tpu_custom_call",),
  "cuda": ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"),
}


def _inputs(t, s, dtype=jnp.float32, batch=2, heads=2, head_size=16):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = ((batch, length, heads, head_size) for length in (t, s, s))
  return tuple(
    jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)
  )


def _mask(s):
  return jnp.arange(s)[None, :] < jnp.asarray([s, s // 3])[:, None]


def _values_and_gradients(function, inputs):
  def loss(*inputs):
    y = function(*inputs)
    return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

  return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_formula_is_that_of_jax(is_causal, masked):
  q, k, v = _inputs(9, 9)
  mask = _mask(9) if masked else None
  want = jax.nn.dot_product_attention(
    q, k, v, mask=None if mask is None else mask[:, None, None, :], is_causal=is_causal
  )
  got = attention(q, k, v, mask_BxS=mask, is_causal=is_causal)
  np.testing.assert_allclose(got, want, atol=1e-6)


# One tile, several, and neither length a multiple of a tile.
@pytest.mark.parametrize(
  "t, s, is_causal, masked",
  [(130, 130, True, False), (128, 200, False, False), (140, 150, False, True)],
)
def test_kernel_for_tpus_equals_the_formula_with_gradients(t, s, is_causal, masked):
  inputs, mask = _inputs(t, s), _mask(s) if masked else None
  kernel = partial(kernels._tpu_flash_attention, mask=mask, is_causal=is_causal)
  with pltpu.force_tpu_interpret_mode():
    got = _values_and_gradients(kernel, inputs)
  reference = partial(attention_reference, mask_BxS=mask, is_causal=is_causal)
  want = _values_and_gradients(reference, inputs)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def _program(platform, function, shapes):
  allowed = [export.DisabledSafetyCheck.custom_call(target) for target in CALLS[platform]]
  exported = export.export(jax.jit(function), platforms=[platform], disabled_checks=allowed)
  return exported(*shapes).mlir_module()


# The semantic LM's window; a text with padding; the DPD's 80 segments stay with XLA.
@pytest.mark.parametrize(
  "length, is_causal, masked, calls",
  [(261, True, False, 3), (128, False, True, 3), (80, False, False, 0)],
)
def test_tpus_get_flash_attention_where_it_suits(length, is_causal, masked, calls):
  mask = _mask(length) if masked else None
  function = partial(attention, mask_BxS=mask, is_causal=is_causal)
  text = _program(
    "tpu",
    lambda *inputs: _values_and_gradients(function, inputs),
    _inputs(length, length, jnp.bfloat16, head_size=64),
  )
  assert text.count("@tpu_custom_call(") == calls  # forward; keys and values; queries


@pytest.mark.parametrize("sizes", [(1, 2, 2), (2, 2, 1)])
def test_a_mesh_splits_rows_and_heads(sizes):
  mesh = AbstractMesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
  layout = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
  shape = jax.ShapeDtypeStruct((8, 256, 4, 64), jnp.bfloat16, sharding=layout)
  with jax.sharding.use_abstract_mesh(mesh):
    text = _program("tpu", lambda *inputs: attention(*inputs), (shape,) * 3)
  calls = [line.split(" loc(")[0] for line in text.splitlines() if "@tpu_custom_call(" in line]
  (call,) = calls
  data, fsdp, tensor = sizes
  local = f"tensor<{8 // (data * fsdp)}x{4 // tensor}x256x64xbf16>"
  assert call.count(local) == 4  # queries, keys, values and the result


def test_cuda_gets_cudnn_where_it_suits(monkeypatch):
  # Lowering asks for the installed cuDNN and for the default device; neither is here.
  library = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
  monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

  def program(dtype, mask=None, is_causal=True):
    function = partial(attention, mask_BxS=mask, is_causal=is_causal)
    return _program(
      "cuda",
      lambda *inputs: _values_and_gradients(function, inputs),
      _inputs(261, 261, dtype, head_size=64),
    )

  for text in (program(jnp.bfloat16), program(jnp.bfloat16, is_causal=False)):
    assert all(text.count(f"@{target}(") == 1 for target in CALLS["cuda"])
  for without in (program(jnp.float32), program(jnp.bfloat16, _mask(261))):
    assert "__cudnn" not in without
