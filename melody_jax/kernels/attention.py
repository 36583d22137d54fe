"""Softmax attention, by the library call that suits each platform.

| compiled for | call | where |
| --- | --- | --- |
| TPU | Pallas flash attention (Mosaic) | sequences of at least `TPU_TILE` positions |
| CUDA | cuDNN flash attention | bfloat16 or float16, no mask, head size a multiple of 8 up to 128 |
| all else, CPU too | `attention_reference` | |

Flash attention (Dao et al., 2022, arXiv 2205.14135) never writes the scores to memory; they would
be B x H x T x S numbers a layer. The libraries also give the gradients.

Shape letters: B batch, T queries, S keys, H heads, E head size.
"""

from collections.abc import Iterator
import contextlib
import contextvars
from functools import partial
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from melody_jax.kernels.layout import layout_in_context

TPU_TILE = 128  # lanes of a register; both sides of a tile of scores are multiples of it
TPU_LARGEST_BLOCK = 512  # a block of scores in float32 then fills 1 MiB of on-chip memory
MASKED = -1e30  # finite: minus infinity makes NaN gradients in a row where all is masked

# Whether programs are traced for a GPU that this process has not (`for_gpus_elsewhere`).
_GPUS_ELSEWHERE = contextvars.ContextVar("gpus_elsewhere", default=False)


def attention(
  q_BxTxHxE: jax.Array,
  k_BxSxHxE: jax.Array,
  v_BxSxHxE: jax.Array,
  *,
  mask_BxS: jax.Array | None = None,
  is_causal: bool = False,
) -> jax.Array:
  """Attention, softmax(q k / sqrt(E)) v, with the softmax in float32.

  On several TPUs a mesh must be in context while this is traced (`sharding.under_mesh`).

  Args:
    q_BxTxHxE: Queries, float [B, T, H, E].
    k_BxSxHxE: Keys, float [B, S, H, E].
    v_BxSxHxE: Values, float [B, S, H, E].
    mask_BxS: Keys that may be attended to, bool [B, S]. At least one in each row is true. None
      means all.
    is_causal: Whether query t sees keys 0 to t only. Then T must equal S.

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
  # Chosen when the program is compiled, not when it is traced: an export for TPU made on a CPU has
  # the TPU's kernel.
  return lax.platform_dependent(*inputs, **calls, default=reference)


def attention_reference(
  q_BxTxHxE: jax.Array,
  k_BxSxHxE: jax.Array,
  v_BxSxHxE: jax.Array,
  *,
  mask_BxS: jax.Array | None = None,
  is_causal: bool = False,
) -> jax.Array:
  """The formula as two matmuls and a softmax. Arguments and result are those of `attention`."""
  t, s = q_BxTxHxE.shape[1], k_BxSxHxE.shape[1]
  scale = 1.0 / math.sqrt(q_BxTxHxE.shape[-1])
  # The queries are scaled, T x E numbers, and not the scores, which are T x S.
  scores = jnp.einsum(
    "BTHE,BSHE->BHTS", q_BxTxHxE * scale, k_BxSxHxE, preferred_element_type=jnp.float32
  )
  if mask_BxS is not None:
    scores = jnp.where(mask_BxS[:, None, None, :], scores, MASKED)
  if is_causal:
    # Both masks may apply; each only ever takes scores away.
    scores = jnp.where(jnp.tril(jnp.ones((t, s), bool))[None, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(v_BxSxHxE.dtype)
  return jnp.einsum("BHTS,BSHE->BTHE", weights, v_BxSxHxE)


def _suits_tpu_kernel(q: jax.Array, k: jax.Array) -> bool:
  """Whether the TPU kernel pays. Short sequences (80 segments in the DPD) stay with XLA.

  Their tiles would be mostly padding: at 80 positions, 2.6 times the scores.
  """
  head_size = q.shape[-1]
  fits = head_size <= TPU_TILE or head_size % TPU_TILE == 0
  return fits and min(q.shape[1], k.shape[1]) >= TPU_TILE


@contextlib.contextmanager
def for_gpus_elsewhere() -> Iterator[None]:
  """Lets programs that are traced in it call cuDNN, which must be installed, without a GPU."""
  token = _GPUS_ELSEWHERE.set(True)
  try:
    yield
  finally:
    _GPUS_ELSEWHERE.reset(token)


def _suits_cudnn(q: jax.Array, mask: jax.Array | None) -> bool:
  # cuDNN takes lengths, not masks. Its call cannot even be traced where it is not installed, so
  # the platform of this process decides as well.
  half = q.dtype in (jnp.bfloat16, jnp.float16)
  fits = q.shape[-1] <= 128 and q.shape[-1] % 8 == 0
  there = jax.default_backend() == "gpu" or _GPUS_ELSEWHERE.get()
  return half and fits and mask is None and there


def _cudnn_attention(q, k, v, mask, *, is_causal: bool) -> jax.Array:
  """Calls cuDNN. Odd lengths are padded, because jax 0.10 refuses their gradients."""
  del mask
  t, s = q.shape[1], k.shape[1]
  q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
  # Padding follows all keys, so a causal query never sees it. Other queries need the true length.
  lengths = jnp.full((len(k),), s, jnp.int32) if s % 2 and not is_causal else None
  layout = layout_in_context(rows=q.shape[0], columns=q.shape[2], column_name="heads")
  if layout is not None:
    # The call refuses to be divided among devices where its inputs do not lie alike, and XLA may
    # choose so: queries of columns, say, by rows, and keys of tokens by heads.
    heads = PartitionSpec(layout.row_axes, None, layout.column_axes)
    q, k, v = (lax.with_sharding_constraint(x, heads) for x in (q, k, v))
  y = jax.nn.dot_product_attention(
    q, k, v, is_causal=is_causal, key_value_seq_lengths=lengths, implementation="cudnn"
  )
  return y[:, :t]


def _tpu_flash_attention(q, k, v, mask, *, is_causal: bool) -> jax.Array:
  """Runs the kernel on the part of B and H that each device holds."""
  inputs = (q, k, v) if mask is None else (q, k, v, mask)
  layout = layout_in_context(rows=q.shape[0], columns=q.shape[2], column_name="heads")
  on_shard = partial(_tpu_shard, is_causal=is_causal)
  if layout is None:
    return on_shard(*inputs)
  # Time stays whole on each device: every query needs all keys.
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
  # The kernel has no mask, only segments that cannot see each other: real positions are segment 1,
  # all others 0. A causal query never sees the padding, which follows all keys.
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
  """Largest blocks that divide the padded sequences: the fewer blocks, the less overhead."""

  def largest(size):
    return max(b for b in range(TPU_TILE, TPU_LARGEST_BLOCK + 1, TPU_TILE) if size % b == 0)

  block_q, block_k = largest(t), largest(s)
  return block_sizes(
    block_q=block_q, block_k_major=block_k, block_k=block_k, block_b=1,
    block_q_major_dkv=block_q, block_k_major_dkv=block_k, block_k_dkv=block_k, block_q_dkv=block_q,
    block_k_major_dq=block_k, block_k_dq=block_k, block_q_dq=block_q,
  )  # fmt: skip
