"""The semantic language model: a LLaMA-style decoder over style and semantic tokens.

docs/spec.md, section 5; LLaMA (arXiv 2302.13971). A sequence is
[style tokens, one per RVQ level | semantic tokens, 25 a second]. One embedding table serves
both: every RVQ level owns a block of rows and so does the semantic vocabulary.

    level l, token i   -> l (style_vocab + 1) + i     the last row of a block is that level's
                                                      learned "no style" (guidance, dropout)
    semantic token i   -> levels (style_vocab + 1) + i

Shape letters: B batch, T query positions, S key positions, D width, H heads, K head size,
L layers, V vocabulary. Everything that decoding remembers is in a `KVCache` that functions
take and return; its shape never changes.
"""

import dataclasses
from typing import Any

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.kernels.attention import attention, attention_reference
from melody_jax.models import layers
from melody_jax.sharding import by_rows

ATTENTION = {"auto": attention, "xla": attention_reference}
# "dots" keeps products with weights and computes attention's scores again: those are the largest
# arrays of a layer, and have a batch axis on both sides.
REMAT_POLICIES = {
  "none": None,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class LMConfig:
  """Sizes and switches of the semantic LM.

  Attributes:
    n_layers: Number of decoder layers.
    width: Model width D.
    n_heads: Number of attention heads; divides `width`.
    mlp_width: Inner size of the SwiGLU.
    style_levels: Style tokens in front (RVQ levels).
    style_vocab: Entries of one RVQ level.
    semantic_vocab: Semantic tokens (k-means centres).
    window_tokens: Semantic tokens of one window (10 s); longer music slides it.
    head: Vocabulary of the logits. "all": over the whole table, as the paper's LM; "semantic": over
      the semantic vocabulary only, which is all that is ever predicted.
    rope_base: Base of the rotary angles.
    norm_epsilon: Epsilon of the RMS norms.
    fixed_styles: Whether the style rows of the table stay as they were born (from the RVQ's
      codebooks: `rows_from_codebooks`) and a learned linear map reads them. In a small corpus most
      of 12 x 1024 learned rows would see a handful of clips each; this way clips share the map.
    summed_styles: Whether, with `fixed_styles`, the position of level n carries the sum of the
      codewords up to n, as the RVQ adds up: the last one is the clip's whole embedding, and what
      clips or texts have in common lies in common directions.
    dropout: Dropout rate on the embedding and on both residual branches of a layer.
    attention: Attention in passes without a cache: "auto", the call that suits the backend
      (`kernels.attention`), or "xla", plain matmuls and a softmax on all of them.
    remat: Arrays that the forward pass stores for the backward pass: "none" (everything), "dots"
      (outputs of matmuls), "full" (inputs of layers).
    dtype: Dtype of computation; parameters are float32.
  """

  n_layers: int
  width: int
  n_heads: int
  mlp_width: int
  style_levels: int = 12
  style_vocab: int = 1024
  semantic_vocab: int = 1024
  window_tokens: int = 250
  head: str = "all"
  rope_base: float = 10_000.0
  norm_epsilon: float = 1e-5
  fixed_styles: bool = False
  summed_styles: bool = False
  dropout: float = 0.0
  attention: str = "auto"
  remat: str = "none"
  dtype: str = "float32"

  def __post_init__(self):
    if self.width % (2 * self.n_heads):
      raise ValueError(f"width {self.width} must be a multiple of 2 * n_heads = {2 * self.n_heads}")
    if self.summed_styles and not self.fixed_styles:
      raise ValueError("summed_styles needs fixed_styles: only codewords add up")
    if self.head not in ("all", "semantic"):
      raise ValueError(f'head is {self.head!r}; it must be "all" or "semantic"')
    if self.attention not in ATTENTION:
      known = ", ".join(ATTENTION)
      raise ValueError(f"attention is {self.attention!r}; it must be one of {known}")
    if self.remat not in REMAT_POLICIES:
      raise ValueError(f"remat is {self.remat!r}; it must be one of {', '.join(REMAT_POLICIES)}")

  @property
  def head_size(self) -> int:
    return self.width // self.n_heads

  @property
  def semantic_offset(self) -> int:
    """Row of semantic token 0 in the embedding table."""
    return self.style_levels * (self.style_vocab + 1)

  @property
  def vocab_size(self) -> int:
    """Rows of the embedding table."""
    return self.semantic_offset + self.semantic_vocab

  @property
  def null_style(self) -> int:
    """The style token that says "no style" at its level."""
    return self.style_vocab


def style_ids(config: LMConfig, style_tokens: jax.Array) -> jax.Array:
  """Style tokens [B, levels] in [0, style_vocab] -> table rows [B, levels]."""
  # A block of rows for each level: token 5 of one level has nothing to do with that of another.
  offsets = jnp.arange(config.style_levels, dtype=jnp.int32) * (config.style_vocab + 1)
  return style_tokens.astype(jnp.int32) + offsets[None, :]


def semantic_ids(config: LMConfig, semantic_tokens: jax.Array) -> jax.Array:
  """Semantic tokens [...] in [0, semantic_vocab) -> table rows [...]."""
  return semantic_tokens.astype(jnp.int32) + config.semantic_offset


def sequence_ids(
  config: LMConfig, style_tokens: jax.Array, semantic_tokens: jax.Array
) -> jax.Array:
  """[B, levels], [B, T] -> table rows of the whole sequence [B, levels + T]."""
  return jnp.concatenate(
    [style_ids(config, style_tokens), semantic_ids(config, semantic_tokens)], axis=1
  )


@flax.struct.dataclass
class KVCache:
  """Rotated keys and values: one [B, H, S, K] array a layer, so that each is updated in place."""

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]


class Attention(nn.Module):
  """Causal self-attention with rotary positions, without biases."""

  config: LMConfig

  @nn.compact
  def __call__(self, x_BTD, angles_TC, cache=None, position=None):
    """[B, T, D] -> ([B, T, D], (keys, values)).

    Args:
      x_BTD: Normalised input.
      angles_TC: Rotary angles of its positions.
      cache: Keys and values of this layer, [B, H, S, K] each, when T = 1 continues a sequence;
        None: `x` is the whole sequence.
      position: Position of `x` in the cache, an int scalar.

    Returns:
      The output [B, T, D]; with a cache its update, without one this call's keys and values
      [B, T, H, K].
    """
    c = self.config
    b, t, _ = x_BTD.shape

    def project(name):
      dense = layers.Projection(c.width, ("embed", "heads"), c.dtype, name=name)
      return dense(x_BTD).reshape(b, t, c.n_heads, c.head_size)

    q, k, v = project("query"), project("key"), project("value")
    # Keys are turned before they are remembered: a token's place in the cache never changes.
    q, k = layers.apply_rotary(q, angles_TC), layers.apply_rotary(k, angles_TC)
    if cache is None:
      y = ATTENTION[c.attention](q, k, v, is_causal=True)
      memory = (k, v)
    else:
      memory = tuple(
        jax.lax.dynamic_update_slice_in_dim(old, jnp.swapaxes(new, 1, 2), position, axis=2)
        for old, new in zip(cache, (k, v), strict=True)
      )
      # Later positions hold padding or zeros: the mask hides them.
      visible_S = jnp.arange(memory[0].shape[2]) <= position
      # One query has few scores: there is nothing that a fused kernel could spare.
      y = jax.nn.dot_product_attention(
        q,
        *(jnp.swapaxes(m, 1, 2) for m in memory),
        mask=visible_S[None, None, None, :],
        implementation="xla",
      )
    out = layers.Projection(c.width, ("heads", "embed"), c.dtype, _residual_init(c), name="out")
    return out(y.reshape(b, t, c.width)), memory


class SwiGLU(nn.Module):
  """down(silu(gate x) * up x), without biases (Shazeer, arXiv 2002.05202)."""

  config: LMConfig

  @nn.compact
  def __call__(self, x_BTD):
    c = self.config
    gate = layers.Projection(c.mlp_width, ("embed", "mlp"), c.dtype, name="gate")(x_BTD)
    up = layers.Projection(c.mlp_width, ("embed", "mlp"), c.dtype, name="up")(x_BTD)
    down = layers.Projection(c.width, ("mlp", "embed"), c.dtype, _residual_init(c), name="down")
    return down(nn.silu(gate) * up)


class DecoderLayer(nn.Module):
  """x + attention(norm(x)), then x + SwiGLU(norm(x)); arguments as of `Attention`.

  Returns ([B, T, D], what the attention remembers).
  """

  config: LMConfig
  deterministic: bool = True

  @nn.compact
  def __call__(self, x_BTD, angles_TC, cache=None, position=None):
    c = self.config
    drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
    x = layers.RMSNorm(c.norm_epsilon, c.dtype, name="attention_norm")(x_BTD)
    y, memory = Attention(c, name="attention")(x, angles_TC, cache, position)
    x_BTD = by_rows(x_BTD + drop(y))
    x = layers.RMSNorm(c.norm_epsilon, c.dtype, name="mlp_norm")(x_BTD)
    return by_rows(x_BTD + drop(SwiGLU(c, name="mlp")(x))), memory


class _ScannedLayer(nn.Module):
  """A DecoderLayer as the body of `nn.scan`: what it remembers is stacked only if asked for."""

  config: LMConfig
  deterministic: bool
  keep_memory: bool

  @nn.compact
  def __call__(self, x_BTD, angles_TC):
    x_BTD, memory = DecoderLayer(self.config, self.deterministic, name="layer")(x_BTD, angles_TC)
    return x_BTD, memory if self.keep_memory else None


class Head(nn.Module):
  """Final norm and output projection, not tied to the embedding: -> float32 logits [..., V]."""

  config: LMConfig

  @nn.compact
  def __call__(self, x, semantic_only: bool):
    c = self.config
    size = c.vocab_size if c.head == "all" else c.semantic_vocab
    x = layers.RMSNorm(c.norm_epsilon, c.dtype, name="norm")(x)
    # As they are accumulated: at 10 a bfloat16 has steps of 1/16, too coarse for a cross-entropy.
    project = layers.Projection(
      size, ("embed", "vocab"), c.dtype, out_dtype=jnp.float32, name="projection"
    )
    return project(x, c.semantic_vocab if semantic_only else None)


class TokenEmbedding(nn.Module):
  """The one table of style and semantic tokens: rows [B, T] -> [B, T, D]."""

  config: LMConfig

  @nn.compact
  def __call__(self, ids_BT, n_style: int):
    """Embeddings [B, T, D]; `n_style`, static: number of first columns that are style tokens."""
    c = self.config
    x = layers.Embed(c.vocab_size, c.width, dtype=c.dtype, name="table")(ids_BT)
    if not (c.fixed_styles and n_style):
      return x
    ids, style = ids_BT[:, :n_style], x[:, :n_style]
    # The last row of every level's block is its "no style", the only style row that learns.
    is_null = ids % (c.style_vocab + 1) == c.null_style
    project = layers.Projection(c.width, ("embed", "embed_out"), c.dtype, name="style")
    if c.summed_styles:
      codewords = jnp.where(is_null[:, :, None], 0.0, jax.lax.stop_gradient(style))
      # A hidden level adds nothing to the sum and says so with its own learned row.
      unknown = jnp.where(is_null[:, :, None], style, 0.0)
      style = project(jnp.cumsum(codewords, axis=1)) + unknown
    else:
      style = project(jnp.where(is_null[:, :, None], style, jax.lax.stop_gradient(style)))
    return jnp.concatenate([style, x[:, n_style:]], axis=1)


def rows_from_codebooks(config: LMConfig, rng: jax.Array, codebooks: jax.Array) -> jax.Array:
  """Table rows of the style tokens that keep the geometry of an RVQ.

  Args:
    config: Sizes of the LM.
    rng: Random key of the map from codebook width to model width.
    codebooks: Codebooks of the RVQ, float [levels, style_vocab, C].

  Returns:
    float32 [levels (style_vocab + 1), D]. Every level has an RMS of 0.02, or, where rows are to be
    summed, the codewords' own size, a unit embedding having an RMS of 0.02. "No style" rows are
    random of that RMS: zeros in front of a norm would have gradients without bounds.

  Raises:
    ValueError: The codebooks are not those of `config.style_levels` x `config.style_vocab`.
  """
  codebooks = jnp.asarray(codebooks, jnp.float32)
  if codebooks.shape[:2] != (config.style_levels, config.style_vocab):
    raise ValueError(
      f"codebooks {codebooks.shape[:2]}, the LM has {(config.style_levels, config.style_vocab)}"
    )
  map_rng, null_rng = jax.random.split(rng)
  # A random map into more dimensions keeps angles nearly as they are (Johnson & Lindenstrauss,
  # 1984).
  rows = 0.02 * codebooks @ jax.random.normal(map_rng, (codebooks.shape[2], config.width))
  if not config.summed_styles:
    rms = jnp.sqrt(jnp.mean(jnp.square(rows), axis=(1, 2), keepdims=True))
    rows = 0.02 * rows / jnp.maximum(rms, 1e-12)
  null = 0.02 * jax.random.normal(null_rng, (config.style_levels, 1, config.width))
  return jnp.concatenate([rows, null], axis=1).reshape(-1, config.width)


class SemanticLM(nn.Module):
  """The decoder over whole sequences; `forward`, `prefill` and `decode_step` wrap it."""

  config: LMConfig

  @nn.compact
  def __call__(
    self,
    ids_BT,
    last: Any = None,
    *,
    deterministic: bool = True,
    semantic_only: bool = False,
    keep_memory: bool = False,
  ):
    """Table rows [B, T] -> (logits, keys and values).

    Args:
      ids_BT: Rows of the embedding table (`sequence_ids`).
      last: The only column that gets logits, [B, V], an int scalar. None: all do, [B, T, V].
      deterministic: Whether there is no dropout (otherwise pass an rng named "dropout").
      semantic_only: Whether logits cover the semantic vocabulary alone, whatever `config.head`
        is.
      keep_memory: Whether to return keys and values, [L, B, T, H, K] each; otherwise None.
    """
    c = self.config
    x = by_rows(TokenEmbedding(c, name="embed")(ids_BT, c.style_levels))
    x = nn.Dropout(c.dropout, deterministic=deterministic)(x)
    angles = layers.rotary_angles(jnp.arange(ids_BT.shape[1]), c.head_size, c.rope_base)
    layer = _ScannedLayer
    if c.remat != "none":
      # Inside a scan XLA cannot undo the recomputation, so it needs no guard against that.
      layer = nn.remat(layer, policy=REMAT_POLICIES[c.remat], prevent_cse=False)
    stack = nn.scan(
      layer,
      length=c.n_layers,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x, memory = stack(c, deterministic, keep_memory, name="layers")(x, angles)
    if last is not None:
      # Cut before the head: logits of a whole prefix would be V numbers for each position.
      x = jax.lax.dynamic_index_in_dim(x, last, axis=1, keepdims=False)
    return Head(c, name="head")(x, semantic_only), memory


def forward(
  model: SemanticLM,
  params: Any,
  style_tokens: jax.Array,
  semantic_tokens: jax.Array,
  dropout_rng: jax.Array | None = None,
) -> jax.Array:
  """Logits that predict every semantic token from those before it, teacher-forced.

  Args:
    model: The LM.
    params: Its parameters.
    style_tokens: Style tokens, int [B, levels]; `config.null_style` where a level is unknown.
    semantic_tokens: Semantic tokens, int [B, T].
    dropout_rng: Random key of dropout; None: no dropout.

  Returns:
    float32 [B, T, V]; row t is the prediction of semantic_tokens[:, t]. V is the table
    with `head = "all"`, the semantic vocabulary with `head = "semantic"`.
  """
  # The last token is a target only: nothing follows that it could predict.
  ids = sequence_ids(model.config, style_tokens, semantic_tokens[:, :-1])
  rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
  logits, _ = model.apply({"params": params}, ids, deterministic=dropout_rng is None, rngs=rngs)
  # The last style token predicts the first semantic token; what style tokens before it
  # would predict is nobody's target.
  return logits[:, model.config.style_levels - 1 :]


def prefill(
  model: SemanticLM, params: Any, ids_BP: jax.Array, length: Any, capacity: int
) -> tuple[jax.Array, KVCache]:
  """One pass over a prefix: makes the cache, predicts the token after it.

  Args:
    model: The LM.
    params: Its parameters.
    ids_BP: Table rows, int32 [B, P], right-padded to a static P.
    length: Number of the P columns that are real, an int scalar.
    capacity: Number of positions S of the cache (static, at least P).

  Returns:
    Logits over the semantic vocabulary, float32 [B, semantic_vocab], and the cache.
  """
  logits, memory = model.apply(
    # A sampler never draws style tokens, so their columns of the head are not computed.
    {"params": params},
    ids_BP,
    length - 1,
    semantic_only=True,
    keep_memory=True,
  )
  # At its final size from the start: no step of decoding changes a shape, so all of them are one
  # program.
  room = ((0, 0), (0, 0), (0, 0), (0, capacity - ids_BP.shape[1]), (0, 0))
  keys, values = (jnp.pad(jnp.swapaxes(m, 2, 3), room) for m in memory)
  return logits, KVCache(tuple(keys), tuple(values))


def unstack_layers(params: Any) -> Any:
  """Parameters with `layers` as a tuple of trees, one a layer, as `decode_step` uses them.

  Done once before a decoding loop: cutting a layer out of the stack in every step would copy
  all weights every step.
  """
  # A loop does it once beforehand and calls `decode_step` with the result.
  if isinstance(params["layers"], tuple):
    return params
  stacked = params["layers"]["layer"]
  n_layers = jax.tree.leaves(stacked)[0].shape[0]

  def layer(i):
    return jax.tree.map(lambda x: x[i], stacked)

  return {**params, "layers": tuple(layer(i) for i in range(n_layers))}


def decode_step(
  model: SemanticLM, params: Any, ids_B: jax.Array, position: Any, cache: KVCache
) -> tuple[jax.Array, KVCache]:
  """One pass over one new token a row.

  Args:
    model: The LM.
    params: Its parameters, better after `unstack_layers`.
    ids_B: Table rows of the tokens, int32 [B].
    position: Their position, an int scalar; all positions before it are in the cache.
    cache: The cache that `prefill` or the step before returned.

  Returns:
    Logits over the semantic vocabulary, float32 [B, semantic_vocab], and the cache.
  """
  c = model.config
  params = unstack_layers(params)
  x = TokenEmbedding(c).apply({"params": params["embed"]}, ids_B[:, None], 0)
  angles = layers.rotary_angles(jnp.reshape(position, (1,)), c.head_size, c.rope_base)
  keys, values = [], []
  # Not the scan of training: with an array for each layer XLA writes into the caches in place,
  # where a scan would copy its stack of them.
  for of_layer, k, v in zip(params["layers"], cache.keys, cache.values, strict=True):
    x, (k, v) = DecoderLayer(c).apply({"params": of_layer}, x, angles, (k, v), position)
    keys.append(k)
    values.append(v)
  logits = Head(c).apply({"params": params["head"]}, x[:, 0], True)
  return logits, KVCache(tuple(keys), tuple(values))


def _residual_init(config: LMConfig):
  # Branch outputs add up over 2 L branches: the usual 1 / sqrt(2 L) keeps the sum's scale.
  return nn.initializers.variance_scaling(0.5 / config.n_layers, "fan_in", "truncated_normal")
