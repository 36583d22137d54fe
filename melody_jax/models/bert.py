"""BERT text encoder (Devlin et al., 2019) that loads public BERT-shaped checkpoints.

Shape letters: B batch, N token positions, D width.
"""

import dataclasses
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.models.layers import Dense, Embed, LayerNorm
from melody_jax.models.public_checkpoint import (
  Reader,
  check_settings,
  check_shapes,
  open_checkpoint,
)
from melody_jax.models.transformer import EncoderConfig, TransformerEncoder


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Sizes of a BERT encoder.

  Attributes:
    vocab_size: Rows of the word table.
    width: Width D.
    layers: Transformer layers.
    heads: Attention heads.
    mlp_size: Inner size of the feed-forward layers.
    max_positions: Length of the longest text, in tokens.
    type_vocab: Rows of the segment table; only row 0 is used.
    pooler: Whether there is the dense + tanh layer over the first token.
    dropout: Dropout rate of the encoder's residual branches.
    remat: Whether to recompute blocks in the backward pass.
    dtype: Dtype of computation.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  mlp_size: int
  max_positions: int = 512
  type_vocab: int = 2
  pooler: bool = False
  dropout: float = 0.0
  remat: bool = False
  dtype: str = "float32"


class Bert(nn.Module):
  """The text encoder: token ids and mask to hidden states.

  Call: `text_ids_BxN` int32, `text_mask_BxN` bool (true on real tokens) -> hidden states
  [B, N, D] and, where the config has a pooler, pooled [B, D] (else None). Hidden states of
  real tokens do not depend on how much padding follows them.
  """

  config: BertConfig

  @nn.compact
  def __call__(
    self, text_ids_BxN: jax.Array, text_mask_BxN: jax.Array, deterministic: bool = True
  ) -> tuple[jax.Array, jax.Array | None]:
    c = self.config
    n = text_ids_BxN.shape[1]
    words = Embed(c.vocab_size, c.width, c.dtype, name="words")(text_ids_BxN)
    positions = Embed(
      c.max_positions, c.width, c.dtype, axes=("position", "embed"), name="positions"
    )(jnp.arange(n))
    # One text at a time: all of its tokens are of the first segment.
    segment = Embed(c.type_vocab, c.width, c.dtype, axes=("position", "embed"), name="segments")(
      jnp.zeros((1,), jnp.int32)
    )
    x_BxNxD = words + (positions + jnp.broadcast_to(segment, positions.shape))[None, :, :]
    x_BxNxD = LayerNorm(1e-12, c.dtype, name="embedding_norm")(x_BxNxD)
    # Post-norm and epsilon 1e-12, as BERT was trained: a public checkpoint fits nothing else.
    stack = EncoderConfig(
      c.width, c.layers, c.heads, c.mlp_size, pre_norm=False,
      dropout=c.dropout, remat=c.remat, dtype=c.dtype,
    )  # fmt: skip
    x_BxNxD = TransformerEncoder(stack, name="encoder")(x_BxNxD, text_mask_BxN, deterministic)
    if not c.pooler:
      return x_BxNxD, None
    pooled = Dense(c.width, ("embed", "embed_out"), dtype=c.dtype, name="pooler")(x_BxNxD[:, 0])
    # BERT's own head over the first token.
    return x_BxNxD, jnp.tanh(pooled)


# Our dense layer (inside a block) -> its name inside "encoder.layer.<i>." of a checkpoint.
_BLOCK_DENSE = {
  ("attention", "query"): "attention.self.query",
  ("attention", "key"): "attention.self.key",
  ("attention", "value"): "attention.self.value",
  ("attention", "out"): "attention.output.dense",
  ("mlp", "inner"): "intermediate.dense",
  ("mlp", "outer"): "output.dense",
}
_BLOCK_NORM = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}
_TABLES = {
  "words": "embeddings.word_embeddings",
  "positions": "embeddings.position_embeddings",
  "segments": "embeddings.token_type_embeddings",
}


def params_from_safetensors(path: str | os.PathLike, config: BertConfig) -> dict[str, Any]:
  """Parameters of `Bert(config)` from a public safetensors checkpoint.

  Args:
    path: File `model.safetensors` with the tensor names of BERT (with or without a "bert." prefix).
    config: Sizes; of a checkpoint with more layers the first ones are taken.

  Returns:
    Nested dict of float32 numpy arrays, the tree that `Bert.init` makes under "params".

  Raises:
    UserError: The file is missing or damaged, lacks a tensor, or has another size or another number
      of heads.
  """
  check_settings(path, {"num_attention_heads": ("text_heads", config.heads)})
  with open_checkpoint(path, "BERT", "bert.") as reader:
    params = _read_params(reader, config)
  # The sizes to compare with, from tracing alone: no parameter is drawn.
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  init = Bert(config).init
  check_shapes(
    path, params, nn.unbox(jax.eval_shape(init, jax.random.key(0), tokens, tokens))["params"]
  )
  return params


def _read_params(reader: Reader, config: BertConfig) -> dict[str, Any]:
  blocks = []
  for i in range(config.layers):
    block: dict[str, Any] = {"attention": {}, "mlp": {}}
    for (part, layer), name in _BLOCK_DENSE.items():
      block[part][layer] = reader.dense(f"encoder.layer.{i}.{name}")
    for norm, name in _BLOCK_NORM.items():
      block[norm] = reader.norm(f"encoder.layer.{i}.{name}")
    blocks.append(block)
  params: dict[str, Any] = {
    name: {"embedding": reader.get(f"{theirs}.weight")} for name, theirs in _TABLES.items()
  }
  params["embedding_norm"] = reader.norm("embeddings.LayerNorm")
  params["encoder"] = {"layers": reader.stack(blocks)}
  if config.pooler:
    params["pooler"] = reader.dense("pooler.dense")
  return params
