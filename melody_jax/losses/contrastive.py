"""Contrastive loss of music and text over the global batch.

Shape letters: B rows of the GLOBAL batch, C joint-space features, N token positions.
"""

import jax
import jax.numpy as jnp

_EXCLUDED = -1e9  # finite, so that no gradient becomes NaN


def unit_vectors(x: jax.Array) -> jax.Array:
  """Unit vectors along the last axis: [..., C] -> float32 [..., C]."""
  x = x.astype(jnp.float32)
  # Added under the root: a vector of zeros gives zeros, and its gradient is finite.
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


def fingerprint(text_ids_BxN: jax.Array) -> jax.Array:
  """Hashes each row of token ids. Equal texts get equal hashes.

  Args:
    text_ids_BxN: Token ids, int [B, N].

  Returns:
    uint32 [B].
  """
  # A polynomial modulo 2^32. Comparing hashes needs [B, B] numbers, comparing ids [B, B, N]. The
  # factor is the prime of the FNV hash.
  n = text_ids_BxN.shape[1]
  powers_N = jnp.cumprod(jnp.full((n,), 0x01000193, jnp.uint32))
  return jnp.sum(text_ids_BxN.astype(jnp.uint32) * powers_N[None, :], axis=1, dtype=jnp.uint32)


def info_nce(
  music_BxC: jax.Array, text_BxC: jax.Array, scale: jax.Array, labels_B: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Symmetric InfoNCE (Radford et al., 2021; MuLan, Huang et al., 2022).

  loss = (CE(scale music text^T, diagonal) + CE(scale text music^T, diagonal)) / 2

  The negatives of a row are all other rows of the GLOBAL batch: under jit, with rows spread over
  devices, XLA gathers one side for the product.

  Args:
    music_BxC: Unit vectors of music, float [B, C].
    text_BxC: Unit vectors of text, float [B, C]. Row i belongs to row i of `music_BxC`.
    scale: 1 / temperature, a scalar.
    labels_B: Labels of the texts, [B]. Rows with equal labels (equal captions) are not negatives
      of each other. None means all differ.

  Returns:
    (loss, metrics), all scalars. The metrics are the mean cosine of the pairs, and recall@1 and
    recall@10 of retrieval in the batch in both directions. A row with an equal label never counts
    as a rival.
  """
  cosine_BxB = jnp.matmul(
    music_BxC.astype(jnp.float32),
    text_BxC.astype(jnp.float32).T,
    precision=jax.lax.Precision.HIGHEST,
  )
  batch = cosine_BxB.shape[0]
  logits_BxB = cosine_BxB * scale
  # Many clips share a caption. To push such a pair apart would punish the right answer.
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
