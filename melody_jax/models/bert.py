"""BERT text encoder (Devlin et al., 2019) that loads public BERT-shaped checkpoints.

Shape letters: B batch, N token positions, D width.
"""

import dataclasses
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.errors import UserError
from melody_jax.models.layers import Dense, Embed, LayerNorm
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


class _Reader:
  """Tensors of a checkpoint under BERT's own names, whichever of the usual spellings it uses."""

  def __init__(self, tensors: Any, names: list[str], where: str):
    self._tensors, self._where = tensors, where
    # Masked-LM checkpoints put the encoder under "bert."; the oldest call a norm's scale and
    # bias gamma and beta.
    self._names = {
      n.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias"): n
      for n in names
    }

  def get(self, name: str) -> np.ndarray:
    if name not in self._names:
      raise UserError(f"{self._where} has no tensor {name}: it is not a BERT-shaped checkpoint")
    return np.asarray(self._tensors.get_tensor(self._names[name]), np.float32)

  def dense(self, name: str) -> dict[str, np.ndarray]:
    # PyTorch stores a dense layer as [out, in].
    return {"kernel": self.get(f"{name}.weight").T, "bias": self.get(f"{name}.bias")}

  def norm(self, name: str) -> dict[str, np.ndarray]:
    return {"scale": self.get(f"{name}.weight"), "bias": self.get(f"{name}.bias")}


def _stack(trees: list[Any]) -> Any:
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def params_from_safetensors(path: str | os.PathLike, config: BertConfig) -> dict[str, Any]:
  """Parameters of `Bert(config)` from a public safetensors checkpoint.

  Args:
    path: File `model.safetensors` with the tensor names of BERT (with or without a "bert." prefix).
    config: Sizes; of a checkpoint with more layers the first ones are taken.

  Returns:
    Nested dict of float32 numpy arrays, the tree that `Bert.init` makes under "params".

  Raises:
    UserError: The file is missing or damaged, lacks a tensor, or has another size.
  """
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="numpy") as tensors:
      params = _read_params(_Reader(tensors, list(tensors.keys()), str(path)), config)
  except (SafetensorError, OSError) as e:
    raise UserError(f"cannot read {path} ({e}): it must be a safetensors file") from e
  model = Bert(config)
  # The sizes to compare with, from tracing alone: no parameter is drawn.
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  expected = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens, tokens))["params"]
  wanted = dict(jax.tree_util.tree_flatten_with_path(expected)[0])
  for key, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    # Compared by shape before a network is run: a wrong table would fail much later and say less.
    if wanted[key].shape != leaf.shape:
      name = jax.tree_util.keystr(key, simple=True, separator="/")
      raise UserError(
        f"{path}: {name} has shape {leaf.shape}, config.model asks for {wanted[key].shape}"
      )
  return params


def _read_params(reader: _Reader, config: BertConfig) -> dict[str, Any]:
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
  # Our encoder scans over its layers, so their parameters lie stacked along a first axis.
  params["encoder"] = {"layers": _stack(blocks)}
  if config.pooler:
    params["pooler"] = reader.dense("pooler.dense")
  return params
