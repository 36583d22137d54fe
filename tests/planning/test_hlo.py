"""Reading compiled programs: loops, collectives, bytes, and counting matmuls."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.planning import hlo
from melody_jax.training.flops import matmul_flops

# The shape of what XLA prints for TPUs, shortened.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %gathered = (f32[8,128]{1,0:T(8,128)}, f32[32,128]{1,0:T(8,128)}) all-gather-start(%x), dimensions={0}
  %whole = f32[32,128]{1,0:T(8,128)} all-gather-done(%gathered)
  %fast = f32[8,128]{1,0:T(8,128)S(1)} fusion(%whole), kind=kLoop, calls=%add
  %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%fast), custom_call_target="tpu_custom_call"
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%p, %kernel)
}

%cond (p.1: (s32[], f32[8,128])) -> pred[] {
  %layers = s32[]{:T(128)} constant(24)
  %p.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %layers), direction=LT
}

ENTRY %main (q: (s32[], f32[8,128])) -> f32[] {
  %q = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%q), condition=%cond, body=%body
  %last = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %loss = f32[]{:T(128)} all-reduce(%last), replica_groups={}, to_apply=%add
}
"""  # noqa: E501


def test_what_a_loop_holds_counts_as_often_as_it_runs():
  program = hlo.Program(TEXT)
  assert program.collectives() == {
    "all-gather": {"count": 24, "bytes": 24 * 32 * 128 * 4},
    "all-reduce": {"count": 1, "bytes": 4},
  }
  assert program.custom_calls() == {"tpu_custom_call": 24}


def test_bytes_leave_out_other_memories():
  row = 8 * 128 * 4
  in_loop = (row + (row + 4 * row)) + 4 * row + row  # gather: in, out; fusion: in; kernel: out
  assert hlo.Program(TEXT).hbm_bytes() == 24 * in_loop + (row + 4)


# One layer's weights are cut out of a stack, and one layer's gradients put into one.
WINDOWS = """HloModule jit_step, is_scheduled=true

%slice (stack: f32[24,64], i: s32[]) -> f32[64] {
  %stack = f32[24,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %layer = f32[1,64]{1,0} dynamic-slice(%stack, %i), dynamic_slice_sizes={1,64}
  ROOT %weights = f32[64]{0} bitcast(%layer)
}

%fused (a: f32[24,64], b: f32[24,64], c: s32[]) -> (f32[24,64], f32[64]) {
  %a = f32[24,64]{1,0} parameter(0)
  %b = f32[24,64]{1,0} parameter(1)
  %c = s32[] parameter(2)
  %inner = f32[64]{0} fusion(%b, %c), kind=kLoop, calls=%slice
  %row = f32[1,64]{1,0} bitcast(%inner)
  %put = f32[24,64]{1,0} dynamic-update-slice(%a, %row, %c)
  ROOT %both = (f32[24,64]{1,0}, f32[64]{0}) tuple(%put, %inner)
}

ENTRY %main (x: f32[24,64], y: f32[24,64], z: s32[]) -> f32[24,64] {
  %x = f32[24,64]{1,0} parameter(0)
  %y = f32[24,64]{1,0} parameter(1)
  %z = s32[]{:S(6)} parameter(2)
  %out = (f32[24,64]{1,0}, f32[64]{0}) fusion(%x, %y, %z), kind=kLoop, calls=%fused
  %free = f32[24,64]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %first = f32[24,64]{1,0} get-tuple-element(%out), index=0
}
"""


def test_windows_count_as_windows():
  row = 64 * 4
  assert hlo.Program(WINDOWS).hbm_bytes() == row + row + row  # read; put in place; result


def test_a_real_program_is_read():
  def step(x):
    return lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, None, length=7)[0]

  text = jax.jit(step).lower(jnp.zeros((32, 32))).compile().as_text()
  program = hlo.Program(text)
  assert program.entry
  assert 7 in {times for _, _, times in program.walk(into_fusions=False)}


@pytest.mark.parametrize(
  ("shape", "size"),
  [("f32[2,3]{1,0}", 24), ("(bf16[4], s8[3])", 11), ("pred[]", 1), ("token[]", 0)],
)
def test_shape_bytes(shape, size):
  assert hlo.shape_bytes(shape) == size


def test_matmuls_of_loops_gradients_and_recomputation():
  w, x = jnp.zeros((8, 8)), jnp.zeros((4, 8))
  one = 2 * 4 * 8 * 8
  assert matmul_flops(lambda w, x: x @ w, w, x) == one

  def loss(w, x, remat):
    layer = jax.checkpoint(lambda x: jnp.tanh(x @ w)) if remat else (lambda x: jnp.tanh(x @ w))
    return jnp.sum(lax.scan(lambda c, _: (layer(c), None), x, None, length=5)[0])

  assert matmul_flops(lambda w, x: loss(w, x, False), w, x) == 5 * one
  assert matmul_flops(jax.grad(lambda w, x: loss(w, x, False)), w, x) == 3 * 5 * one
  assert matmul_flops(jax.grad(lambda w, x: loss(w, x, True)), w, x) == 4 * 5 * one


def test_convolutions_by_hand():
  x, kernel = jnp.zeros((2, 100, 6)), jnp.zeros((3, 6, 10))
  numbers = ("NWC", "WIO", "NWC")

  def forward(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2,), "SAME", dimension_numbers=numbers)

  assert matmul_flops(forward, x, kernel) == 2 * 2 * 50 * 10 * 3 * 6
  grouped = jnp.zeros((3, 2, 12))
  flops = matmul_flops(
    lambda x, k: lax.conv_general_dilated(
      x, k, (1,), "SAME", dimension_numbers=numbers, feature_group_count=3
    ),
    x, grouped,
  )  # fmt: skip
  assert flops == 2 * 2 * 100 * 12 * 3 * 2
  # Forward, and two gradients of the same size, padding apart.
  all_three = matmul_flops(
    jax.grad(lambda x, k: jnp.sum(jnp.square(forward(x, k))), argnums=(0, 1)), x, kernel
  )
  np.testing.assert_allclose(all_three, 3 * 2 * 2 * 50 * 10 * 3 * 6, rtol=0.05)


def test_what_crosses_slices_is_counted_by_its_kind():
  text = """
ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %t = token[] after-all()
  %send.1 = (f32[8,128]{1,0}, u32[], token[]) send(%p, %t), frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %send.2 = (f32[2,128]{1,0}, u32[], token[]) send(%p, %t), frontend_attributes={_xla_megascale_transfer_type="ALL_GATHER"}
  %send.3 = (f32[4]{0}, u32[], token[]) send(%p, %t), frontend_attributes={_xla_megascale_transfer_type="ONE_TO_ONE"}
  %send.4 = (f32[4]{0}, u32[], token[]) send(%p, %t), is_host_transfer=true
  ROOT %r = f32[8,128]{1,0} copy(%p)
}
"""  # noqa: E501
  found = hlo.Program(text).between_slices(4)
  assert found == {"count": 3, "bytes": 4096 * 1.5 + 1024 * 3 + 16}
