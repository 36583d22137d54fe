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


def token_cross_entropy(bundle: str | os.PathLike) -> tuple[Score, lm.LMConfig]:
  """Loads the LM of a bundle as a function that scores rows of tokens.

  Returns:
    (score, config). score(style int32 [B, levels], semantic int32 [B, T]) returns two arrays
    float32 [B, T]: the cross-entropy of each semantic token in nats, with the style tokens of the
    row and without any style.

  Raises:
    UserError: if the bundle has no LM, or a damaged one.
  """
  config, params = bundles.load_model(bundle, "lm", lm.LMConfig)
  # On the device once; numpy arrays would be copied there at every call.
  params = jax.tree.map(jnp.asarray, params)
  model = lm.SemanticLM(config)

  def rows(params: Any, style: jax.Array, semantic: jax.Array) -> jax.Array:
    logits = lm.forward(model, params, style, semantic)
    # A head over all tokens numbers the semantic ones after the style tokens.
    labels = semantic + (config.semantic_offset if config.head == "all" else 0)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)

  @jax.jit
  def score(params: Any, style: jax.Array, semantic: jax.Array) -> tuple[jax.Array, jax.Array]:
    return rows(params, style, semantic), rows(
      params, jnp.full_like(style, config.null_style), semantic
    )

  return lambda style, semantic: score(params, style, semantic), config
