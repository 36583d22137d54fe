"""Training of the semantic LM: style tokens come first, the loss is on semantic tokens.

docs/spec.md, section 5.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from melody_jax import bundle
from melody_jax.errors import UserError, check_range
from melody_jax.models import layers, lm
from melody_jax.task import BaseTask, Batch, Metrics, Variables, WindowFeature


def corrupt_style(
  rng: jax.Array,
  style_tokens: jax.Array,
  null_style: int,
  *,
  dropout: float,
  truncation: float,
  token_dropout: float,
) -> jax.Array:
  """Style tokens of training rows, some of them hidden behind the "no style" token.

  Twelve RVQ tokens nearly name the clip that they come from, and the text of a prompt never gives
  exactly the tokens of a training clip. Without this the LM learns clips by heart.

  Args:
    rng: Random key.
    style_tokens: Style tokens, int32 [B, levels].
    null_style: The "no style" token.
    dropout: Share of rows that lose all levels (classifier-free guidance).
    truncation: Share of rows that keep only the first n levels, n ~ U{1 .. levels - 1}; the
      first levels carry most of an embedding.
    token_dropout: Chance of each single level to be lost.

  Returns:
    int32 [B, levels].
  """
  b, levels = style_tokens.shape
  row_rng, cut_rng, length_rng, token_rng = jax.random.split(rng, 4)
  drop_row = jax.random.bernoulli(row_rng, dropout, (b,))
  cut = jax.random.bernoulli(cut_rng, truncation, (b,))
  # U{1 .. levels - 1}; an RVQ of one level has nothing to cut.
  kept = jax.random.randint(length_rng, (b,), 1, max(levels, 2))
  beyond = jnp.arange(levels)[None, :] >= kept[:, None]
  # Levels are cut from the end: each level refines those before it, and means nothing alone.
  hidden = drop_row[:, None] | (cut[:, None] & beyond)
  hidden = hidden | jax.random.bernoulli(token_rng, token_dropout, (b, levels))
  return jnp.where(hidden, null_style, style_tokens)


class LMTask(BaseTask):
  """Training of the semantic LM.

  A batch holds `style_tokens` int32 [B, levels] and `semantic_tokens` int32 [B, T].
  """

  def __init__(self, config):
    super().__init__(config)
    self.model_config: lm.LMConfig = layers.config_from(lm.LMConfig, config.model)
    self.model = lm.SemanticLM(self.model_config)
    for share in ("style_dropout", "style_truncation", "style_token_dropout"):
      check_range(f"config.conditioning.{share}", config.conditioning[share], 0, 1)

  def input_features(self) -> dict[str, WindowFeature]:
    c = self.model_config
    return {
      "style_tokens": WindowFeature((c.style_levels,), "int32", c.style_vocab),
      "semantic_tokens": WindowFeature((c.window_tokens,), "int32", c.semantic_vocab),
    }

  def without_recomputation(self) -> "LMTask":
    return self.with_model(remat="none")

  def init(self, rng: jax.Array) -> Variables:
    """Random parameters; style rows from `config.conditioning.style_codebooks` if it is set."""
    c = self.model_config
    params = self.model.init(rng, jnp.zeros((1, c.style_levels + 1), jnp.int32))["params"]
    if self.config.conditioning.style_codebooks:
      # Into the box of the drawn table, which carries the logical axes.
      table = params["embed"]["table"]["embedding"]
      value = jax.lax.dynamic_update_slice(table.value, self._style_rows(rng), (0, 0))
      params["embed"]["table"]["embedding"] = table.replace_boxed(value)
    return params

  def _style_rows(self, rng: jax.Array) -> jax.Array:
    """Rows of the style tokens by `config.conditioning.style_codebooks`, float32 [rows, D].

    Raises:
      UserError: The file has no codebooks, or those of other sizes.
    """
    path = self.config.conditioning.style_codebooks
    mulan, _ = bundle.load(path)
    if "rvq" not in mulan:
      raise UserError(f"{path} has no rvq/codebooks: run melody_jax.fit first")
    try:
      return lm.rows_from_codebooks(
        self.model_config, jax.random.fold_in(rng, 1), mulan["rvq"]["codebooks"]
      )
    except ValueError as e:
      raise UserError(f"config.conditioning.style_codebooks={path}: {e}") from e

  def import_params(self, params: Variables) -> Variables:
    """An LM's file, with style rows by `config.conditioning.style_codebooks` if it is set.

    The file's own rows belong to the MuLan that it was trained with. Rows of "no style" are
    learned, and stay.
    """
    if not self.config.conditioning.style_codebooks:
      return params
    c = self.model_config
    # The key that `training.state.make_init` hands to `init`: the same map as in a new run.
    rng, _ = jax.random.split(jax.random.key(self.config.seed))
    new = np.array(self._style_rows(rng)).reshape(c.style_levels, c.style_vocab + 1, -1)
    table = np.array(params["embed"]["table"]["embedding"], np.float32)
    if table.shape[1] == new.shape[2] and len(table) >= c.semantic_offset:
      # A table of another size is told by the caller, name and shape.
      rows = table[: c.semantic_offset].reshape(new.shape)
      rows[:, : c.style_vocab] = new[:, : c.style_vocab]
    embed = params["embed"] | {"table": params["embed"]["table"] | {"embedding": table}}
    return params | {"embed": embed}

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Mean cross-entropy of the semantic tokens, in nats.

    The metrics are `loss` and `accuracy`, in evaluation also `loss_without_style`. The difference
    of the two losses is what the style tokens tell about the music.
    """
    del step
    c, conditioning = self.model_config, self.config.conditioning
    style, semantic = batch["style_tokens"], batch["semantic_tokens"]
    if not train:
      loss, accuracy = self._cross_entropy(params, style, semantic, None)
      # Twice the work of an evaluation, for the one number that tells whether style is heard.
      unconditional, _ = self._cross_entropy(
        params, jnp.full_like(style, c.null_style), semantic, None
      )
      return loss, {"loss": loss, "accuracy": accuracy, "loss_without_style": unconditional}
    style_rng, dropout_rng = jax.random.split(rng)
    style = corrupt_style(
      style_rng,
      style,
      c.null_style,
      dropout=conditioning.style_dropout,
      truncation=conditioning.style_truncation,
      token_dropout=conditioning.style_token_dropout,
    )
    loss, accuracy = self._cross_entropy(
      params, style, semantic, dropout_rng if c.dropout else None
    )
    return loss, {"loss": loss, "accuracy": accuracy}

  makes = "tokens"

  def made(self, params: Variables, batch: Batch, rng: jax.Array) -> jax.Array:
    """Semantic tokens [B, T] drawn after the style tokens of the batch, at temperature 1."""
    c, model = self.model_config, self.model
    ids, size = lm.style_ids(c, batch["style_tokens"]), c.style_levels + c.window_tokens
    logits, cache = lm.prefill(model, params, ids, c.style_levels, size)
    own = lm.unstack_layers(params)

    def step(carry, inputs):
      (logits, cache), (position, key) = carry, inputs
      token_B = jax.random.categorical(key, logits)
      return lm.decode_step(model, own, lm.semantic_ids(c, token_B), position, cache), token_B

    keys = jax.random.split(rng, c.window_tokens)
    places = jnp.arange(c.style_levels, size)
    return jax.lax.scan(step, (logits, cache), (places, keys))[1].T

  def wanted(self, batch: Batch) -> jax.Array:
    return batch["semantic_tokens"]

  def _cross_entropy(self, params: Any, style: jax.Array, semantic: jax.Array, dropout_rng: Any):
    c = self.model_config
    logits = lm.forward(self.model, params, style, semantic, dropout_rng)
    # A head over the whole table counts rows of the table, as the paper's LM does.
    labels = semantic + (c.semantic_offset if c.head == "all" else 0)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    hits = jnp.argmax(logits, axis=-1) == labels
    return jnp.mean(losses), jnp.mean(hits.astype(jnp.float32))
