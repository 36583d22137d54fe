"""Contrastive losses over the global batch.

Shape letters: B rows of the GLOBAL batch, C joint-space features, N token positions.
"""

import jax
import jax.numpy as jnp

_EXCLUDED = -1e9


def fingerprint(text_ids_BxN: jax.Array) -> jax.Array:
  """A 32-bit polynomial hash of each row of token ids: uint32 [B]; equal texts hash alike."""
  n = text_ids_BxN.shape[1]
  powers_N = jnp.cumprod(jnp.full((n,), 0x01000193, jnp.uint32))
  return jnp.sum(text_ids_BxN.astype(jnp.uint32) * powers_N[None, :], axis=1, dtype=jnp.uint32)


def info_nce(
  music_BxC: jax.Array, text_BxC: jax.Array, scale: jax.Array, labels_B: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Symmetric InfoNCE (Radford et al., 2021; MuLan, Huang et al., 2022).

  loss = (CE(scale music text^T, diagonal) + CE(scale text music^T, diagonal)) / 2

  Written on whole arrays: under jit with rows sharded over the data axes the product
  below needs every row, so XLA gathers one side and the negatives are the global batch.

  Args:
    music_BxC: Unit vectors of clips.
    text_BxC: Unit vectors of texts; row i belongs to row i of `music_BxC`.
    scale: Scale of the cosines, 1 / temperature, a scalar.
    labels_B: Labels. Rows with equal ones (identical captions) are not negatives of each other.

  Returns:
    (loss, metrics): recall@1 and recall@10 of the in-batch retrieval in both
    directions (ties with identical captions count as found), mean cosine of the pairs.
  """
  cosine_BxB = jnp.matmul(
    music_BxC.astype(jnp.float32),
    text_BxC.astype(jnp.float32).T,
    precision=jax.lax.Precision.HIGHEST,
  )
  batch = cosine_BxB.shape[0]
  logits_BxB = cosine_BxB * scale
  if labels_B is not None:
    same_BxB = labels_B[:, None] == labels_B[None, :]
    logits_BxB = jnp.where(same_BxB & ~jnp.eye(batch, dtype=bool), _EXCLUDED, logits_BxB)
  pair_B = jnp.diagonal(logits_BxB)
  music_to_text_B = jax.nn.logsumexp(logits_BxB, axis=1) - pair_B
  text_to_music_B = jax.nn.logsumexp(logits_BxB, axis=0) - pair_B
  loss = 0.5 * (jnp.mean(music_to_text_B) + jnp.mean(text_to_music_B))
  metrics = {"pair_cosine": jnp.mean(jnp.diagonal(cosine_BxB))}
  for name, axis in (("text_to_music", 0), ("music_to_text", 1)):
    rank_B = jnp.sum(logits_BxB > jnp.expand_dims(pair_B, axis), axis=axis)
    metrics[f"{name}_recall@1"] = jnp.mean((rank_B < 1).astype(jnp.float32))
    metrics[f"{name}_recall@10"] = jnp.mean((rank_B < 10).astype(jnp.float32))
  return loss, metrics
