"""Softmax attention by the library call that suits each backend.

| compiled for | call | where |
| --- | --- | --- |
| TPU | Pallas flash attention (Mosaic) | sequences of at least `TPU_TILE` positions |
| CUDA | cuDNN flash attention | bfloat16 or float16, no mask, head size a multiple of 8 up to 128 |
| all else, CPU too | `attention_reference` | |

Flash attention (Dao et al., 2022, arXiv 2205.14135) never writes the scores, B H T S numbers a
layer, to memory. Their gradients are those of the libraries.

Shape letters: B batch, T queries, S keys, H heads, E head size.
"""

from functools import partial
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from melody_jax.kernels.layout import layout_in_context

TPU_TILE = 128  # lanes of a register: a tile of scores is a multiple of it in both directions
TPU_LARGEST_BLOCK = 512  # one block of scores in float32 then fills 1 MiB of on-chip memory
MASKED = -1e30


def attention(
  q_BxTxHxE: jax.Array,
  k_BxSxHxE: jax.Array,
  v_BxSxHxE: jax.Array,
  *,
  mask_BxS: jax.Array | None = None,
  is_causal: bool = False,
) -> jax.Array:
  """softmax(q k / sqrt(E)) v, softmax in float32.

  On several TPUs a mesh must be in context while this is traced (`sharding.under_mesh`).

  Args:
    q_BxTxHxE: Queries.
    k_BxSxHxE: Keys.
    v_BxSxHxE: Values.
    mask_BxS: Mask, true on the keys that may be attended to; at least one in each row.
    is_causal: Whether query t sees keys 0..t only; asks for T = S.

  Returns:
    [B, T, H, E] in the dtype of v.
  """

  def reference(q, k, v, mask):
    return attention_reference(q, k, v, mask_BxS=mask, is_causal=is_causal)

  inputs = (q_BxTxHxE, k_BxSxHxE, v_BxSxHxE, mask_BxS)
  calls = {}
  if _suits_tpu_kernel(q_BxTxHxE, k_BxSxHxE):
    calls["tpu"] = partial(_tpu_flash_attention, is_causal=is_causal)
  if _suits_cudnn(q_BxTxHxE, mask_BxS):
    calls["cuda"] = partial(_cudnn_attention, is_causal=is_causal)
  if not calls:
    return reference(*inputs)
  return lax.platform_dependent(*inputs, **calls, default=reference)


def attention_reference(
  q_BxTxHxE: jax.Array,
  k_BxSxHxE: jax.Array,
  v_BxSxHxE: jax.Array,
  *,
  mask_BxS: jax.Array | None = None,
  is_causal: bool = False,
) -> jax.Array:
  """The formula as matmuls and a softmax; arguments and result as in `attention`."""
  t, s = q_BxTxHxE.shape[1], k_BxSxHxE.shape[1]
  scale = 1.0 / math.sqrt(q_BxTxHxE.shape[-1])
  scores = jnp.einsum(
    "BTHE,BSHE->BHTS", q_BxTxHxE * scale, k_BxSxHxE, preferred_element_type=jnp.float32
  )
  if mask_BxS is not None:
    scores = jnp.where(mask_BxS[:, None, None, :], scores, MASKED)
  if is_causal:
    scores = jnp.where(jnp.tril(jnp.ones((t, s), bool))[None, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(v_BxSxHxE.dtype)
  return jnp.einsum("BHTS,BSHE->BTHE", weights, v_BxSxHxE)


def _suits_tpu_kernel(q: jax.Array, k: jax.Array) -> bool:
  """Short sequences (80 segments in the DPD) stay with XLA.

  Tiles would be mostly padding, 2.6 times the scores at 80, and each grid cell would hold two
  products of a few registers.
  """
  head_size = q.shape[-1]
  fits = head_size <= TPU_TILE or head_size % TPU_TILE == 0
  return fits and min(q.shape[1], k.shape[1]) >= TPU_TILE


def _suits_cudnn(q: jax.Array, mask: jax.Array | None) -> bool:
  # cuDNN takes lengths rather than masks, and its call cannot be traced where it is not installed.
  half = q.dtype in (jnp.bfloat16, jnp.float16)
  fits = q.shape[-1] <= 128 and q.shape[-1] % 8 == 0
  return half and fits and mask is None and jax.default_backend() == "gpu"


def _cudnn_attention(q, k, v, mask, *, is_causal: bool) -> jax.Array:
  """Lengths are made even: jax 0.10 refuses gradients of odd ones."""
  del mask
  t, s = q.shape[1], k.shape[1]
  q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
  # As below, a causal query never sees the padding.
  lengths = jnp.full((len(k),), s, jnp.int32) if s % 2 and not is_causal else None
  y = jax.nn.dot_product_attention(
    q, k, v, is_causal=is_causal, key_value_seq_lengths=lengths, implementation="cudnn"
  )
  return y[:, :t]


def _tpu_flash_attention(q, k, v, mask, *, is_causal: bool) -> jax.Array:
  """The kernel on each device's share of B and H."""
  inputs = (q, k, v) if mask is None else (q, k, v, mask)
  layout = layout_in_context(rows=q.shape[0], columns=q.shape[2], column_name="heads")
  on_shard = partial(_tpu_shard, is_causal=is_causal)
  if layout is None:
    return on_shard(*inputs)
  heads = PartitionSpec(layout.row_axes, None, layout.column_axes)
  specs = (heads, heads, heads, PartitionSpec(layout.row_axes))[: len(inputs)]
  return layout.shard_map(on_shard, specs, heads)(*inputs)


def _tpu_shard(q, k, v, mask=None, *, is_causal: bool) -> jax.Array:
  from jax.experimental.pallas.ops.tpu import flash_attention as library

  batch, t, _, head_size = q.shape
  s = k.shape[1]

  def prepared(x):  # [B, H, whole tiles, E]
    return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % TPU_TILE), (0, 0)))

  q, k, v = prepared(q), prepared(k), prepared(v)
  segment_ids = None
  # Keys of the padding, if any, follow all others: a causal query never sees them.
  if mask is not None or (k.shape[2] != s and not is_causal):
    visible = jnp.ones((batch, s), jnp.int32) if mask is None else mask.astype(jnp.int32)
    padded = jnp.pad(visible, ((0, 0), (0, k.shape[2] - s)))
    segment_ids = library.SegmentIds(jnp.ones((batch, q.shape[2]), jnp.int32), padded)
  y = library.flash_attention(
    q, k, v,
    segment_ids=segment_ids,
    causal=is_causal,
    sm_scale=1.0 / math.sqrt(head_size),
    block_sizes=_tpu_blocks(library.BlockSizes, q.shape[2], k.shape[2]),
  )  # fmt: skip
  return y[:, :, :t].swapaxes(1, 2)


def _tpu_blocks(block_sizes: Any, t: int, s: int) -> Any:
  """The largest blocks that divide the padded sequences; one block of keys needs no running sum."""

  def largest(size):
    return max(b for b in range(TPU_TILE, TPU_LARGEST_BLOCK + 1, TPU_TILE) if size % b == 0)

  block_q, block_k = largest(t), largest(s)
  return block_sizes(
    block_q=block_q, block_k_major=block_k, block_k=block_k, block_b=1,
    block_q_major_dkv=block_q, block_k_major_dkv=block_k, block_k_dkv=block_k, block_q_dkv=block_q,
    block_k_major_dq=block_k, block_k_dq=block_k, block_q_dq=block_q,
  )  # fmt: skip
