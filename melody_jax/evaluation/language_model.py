"""The LM of a bundle as a function that scores rows of tokens."""

from collections.abc import Callable
import os
from typing import Any

import jax
import jax.numpy as jnp
import optax

from melody_jax import bundle as bundles
from melody_jax.models import lm

Score = Callable[[Any, Any], tuple[jax.Array, jax.Array]]


def row_cross_entropy(bundle: str | os.PathLike) -> tuple[Score, lm.LMConfig]:
  """Loads the LM.

  Returns:
    (score, config). score(style [B, levels], semantic [B, T]) gives two arrays [B], the mean nats
    per semantic token with the style tokens and with "no style".

  Raises:
    UserError: the bundle has no LM, or a damaged one.
  """
  config, params = bundles.load_model(bundle, "lm", lm.LMConfig)
  params = jax.tree.map(jnp.asarray, params)
  model = lm.SemanticLM(config)

  def rows(params: Any, style: jax.Array, semantic: jax.Array) -> jax.Array:
    logits = lm.forward(model, params, style, semantic)
    labels = semantic + (config.semantic_offset if config.head == "all" else 0)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean(axis=-1)

  @jax.jit
  def score(params: Any, style: jax.Array, semantic: jax.Array) -> tuple[jax.Array, jax.Array]:
    return rows(params, style, semantic), rows(
      params, jnp.full_like(style, config.null_style), semantic
    )

  return lambda style, semantic: score(params, style, semantic), config
