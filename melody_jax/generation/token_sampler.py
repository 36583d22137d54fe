"""Semantic tokens from the LM: sampling rules, guidance and the compiled sampling loop.

docs/spec.md, section 5. A rule (`Greedy`, `Filtered`) is a frozen dataclass with one method.
Everything here is pure and runs under jit. Every item of a batch has a key of its own, and the key
of a draw depends on nothing but that key and the token's index, so that an item's tokens do not
depend on the batch that it travels in.

`fill` draws the unknown tokens of one window and leaves the known ones alone, which is all
that continuing, inpainting and streaming need. Music longer than the LM's window slides it: the
style tokens and all but the oldest chunk of the semantic tokens (7.5 to 8 s of 10 s) are read
again in one pass, then the window is filled up. `generate` does that for a whole piece in one
program. Every token costs one pass of the network, counted where the passes are made.

Shape letters: B items, R network rows (B, or 2 B with guidance), V semantic vocabulary,
W window tokens, S reads.
"""

from typing import Any, Protocol

import flax
import jax
import jax.numpy as jnp

from melody_jax.generation.options import check_option
from melody_jax.models import lm


class TokenSampler(Protocol):
  """A rule that turns logits into tokens."""

  def sample(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """float32 [B, V] and one key a row -> int32 [B]."""


@flax.struct.dataclass
class Greedy:
  """The most likely token."""

  def sample(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    del keys_B
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


@flax.struct.dataclass
class Filtered:
  """A draw at a temperature among the tokens that top-k and then top-p leave.

  Fields may be traced: changing them does not recompile.

  Attributes:
    temperature: Temperature, which divides the logits; above 0.
    top_k: Number of most likely tokens that stay; None: all.
    top_p: Probability that stays, after top_k: the smallest set of tokens, most likely first, that
      reaches it (Holtzman et al., arXiv 1904.09751); None: all.
  """

  temperature: Any = 1.0
  top_k: Any = None
  top_p: Any = None

  def filter(self, logits_BV: jax.Array) -> jax.Array:
    """[B, V] -> scaled logits [B, V], -inf where a token is out. Ties at a border all stay."""
    logits_BV = logits_BV / self.temperature
    if self.top_k is None and self.top_p is None:
      return logits_BV
    # Sorted, then compared with a threshold: the draw itself keeps the tokens' own order.
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    if self.top_k is not None:
      rank_V = jnp.arange(sorted_BV.shape[-1])
      sorted_BV = jnp.where(rank_V[None, :] < self.top_k, sorted_BV, -jnp.inf)
    if self.top_p is not None:
      p_BV = jax.nn.softmax(sorted_BV, axis=-1)
      before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
      # The first token is in whatever p is: nothing lies before it.
      inside_BV = (before_BV < self.top_p).at[:, 0].set(True)
      sorted_BV = jnp.where(inside_BV, sorted_BV, -jnp.inf)
    threshold_B = jnp.min(jnp.where(jnp.isfinite(sorted_BV), sorted_BV, jnp.inf), axis=-1)
    return jnp.where(logits_BV >= threshold_B[:, None], logits_BV, -jnp.inf)

  def sample(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    # A key a row: an item draws the same in any batch.
    return jax.vmap(jax.random.categorical)(keys_B, self.filter(logits_BV)).astype(jnp.int32)


def make_token_sampler(
  temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> TokenSampler:
  """The rule of a user's three numbers.

  Args:
    temperature: Divides the logits; 0 is greedy.
    top_k: Most likely tokens that stay; None: all.
    top_p: Probability that stays; None: all.

  Raises:
    UserError: if a number is out of its range (`options.OPTIONS`).
  """
  check_option("temperature", temperature)
  check_option("top_k", top_k)
  check_option("top_p", top_p)
  # The limit of ever lower temperatures, which dividing by zero would not reach.
  if temperature == 0:
    return Greedy()
  return Filtered(temperature, top_k, top_p)


@flax.struct.dataclass
class RepetitionGuard:
  """Lowers the logit of a token by `penalty` for each time it occurs in the last `span` tokens.

  Holding a token is normal at 25 Hz, so a gentle penalty over a span of seconds breaks loops
  without forbidding repeats.
  """

  penalty: Any = 0.1
  span: Any = 50

  def apply(self, logits_BV: jax.Array, tokens_BW: jax.Array, end: jax.Array) -> jax.Array:
    """Lowers the logits of tokens that were drawn lately.

    Args:
      logits_BV: Logits of the next token, float32 [B, V].
      tokens_BW: Tokens of the window, int32 [B, W].
      end: Position of the next token in the window, int32 scalar; the `span` columns before it
        are looked at.

    Returns:
      Penalised logits, float32 [B, V].
    """
    # A mask over the whole window instead of a slice: both ends of the span may be traced.
    column_W = jnp.arange(tokens_BW.shape[1])
    recent_W = ((column_W < end) & (column_W >= end - self.span)).astype(jnp.float32)
    count = jax.vmap(lambda tokens: jnp.zeros(logits_BV.shape[1]).at[tokens].add(recent_W))
    return logits_BV - self.penalty * count(tokens_BW)


@flax.struct.dataclass
class Conditions:
  """What steers every token; shapes are static, values may change from chunk to chunk.

  Attributes:
    style_tokens: Style tokens, int32 [B, levels]; for `fill` also [B, S, levels], one style for
      each read.
    guidance_scale: Guidance, scalar or [B]: logits = c + (scale - 1)(c - u) with u the logits under
      `negative_style` (Ho & Salimans, arXiv 2207.12598). None: no guidance, one row an item.
    negative_style: Style to move away from, int32 [B, levels]; None: the learned "no style".
    guard: Guard against repetition; None: none.
  """

  style_tokens: jax.Array
  guidance_scale: Any = None
  negative_style: Any = None
  guard: RepetitionGuard | None = None


@flax.struct.dataclass
class Reads:
  """In which pieces `fill` draws the tokens of a window; each piece begins with one prefill.

  All may be traced, S is static. A new piece is needed only where the style changes.

  Attributes:
    begin: First position of each piece in the window, int32 [S].
    end: Position after its last one, int32 [S].
    style: Index of the style that holds there, int32 [S].
    count: Number of the S pieces that are real, int32 scalar.
  """

  begin: Any
  end: Any
  style: Any
  count: Any


def fill(
  model: lm.SemanticLM,
  params: Any,
  sampler: TokenSampler,
  keys: jax.Array,
  conditions: Conditions,
  reads: Reads,
  tokens_BW: jax.Array,
  known_BW: jax.Array,
  first_index_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Draws the unknown tokens of one window, each given all that lies before it there.

  Args:
    model: The LM (static).
    params: Parameters of the LM.
    sampler: Rule that draws tokens.
    keys: One random key for each item, [B].
    conditions: Style tokens ([B, levels], or [B, S, levels], one style a read), guidance, guard.
    reads: Positions to draw; they cover the unknown ones and begin after known ones only.
    tokens_BW: Known tokens, int32 [B, W]; anything elsewhere.
    known_BW: Tokens that stay as they are, bool [B, W].
    first_index_B: Index of the window's first token in the piece, int32 [B]: it names the draws.

  Returns:
    Tokens int32 [B, W], and the number of network passes, int32 scalar.
  """

  def read(s, carry):
    tokens, nfe = carry
    here = conditions
    # Read anew with its own style: keys and values of all positions depend on the style in front.
    if conditions.style_tokens.ndim == 3:
      style = jnp.take(conditions.style_tokens, reads.style[s], axis=1)
      here = conditions.replace(style_tokens=style)
    begin, end = reads.begin[s], reads.end[s]
    tokens, n = _draw(
      model, params, sampler, keys, here, tokens, known_BW, begin, end, first_index_B
    )
    return tokens, nfe + n

  # As many reads as there are, not as there could be: the bound is data.
  return jax.lax.fori_loop(0, reads.count, read, (tokens_BW, jnp.zeros((), jnp.int32)))


def chunk_edges(window: int, chunks: int, count: int) -> list[int]:
  """Where the first `count` chunks begin and end, of which a window holds `chunks`.

  Quarters of 250 tokens: 0, 62, 125, 187, 250, ...
  """
  return [k * window // chunks for k in range(count + 1)]


def generate(
  model: lm.SemanticLM,
  params: Any,
  sampler: TokenSampler,
  keys: jax.Array,
  conditions: Conditions,
  n_tokens: int,
  chunks: int = 4,
) -> tuple[jax.Array, jax.Array]:
  """Draws `n_tokens` (static) tokens an item in one program, from the beginning of a piece.

  Args:
    model: The LM (static).
    params: Parameters of the LM.
    sampler: Rule that draws tokens.
    keys: One random key for each item, [B].
    conditions: Style tokens [B, levels], guidance, guard.
    n_tokens: Number of tokens; a shorter call yields a prefix of a longer one's tokens.
    chunks: Number of chunks in a window, by one of which it moves.

  Returns:
    Tokens int32 [B, n_tokens], and the number of network passes, int32 scalar.
  """
  w = model.config.window_tokens
  edges = chunk_edges(w, chunks, max(-(-n_tokens * chunks // w), chunks))
  # The first window in one go, then chunk by chunk.
  ends = jnp.asarray(edges[chunks:])
  begins = jnp.asarray([0, *edges[chunks:-1]])
  tokens = jnp.zeros((keys.shape[0], edges[-1]), jnp.int32)
  known = jnp.zeros((keys.shape[0], w), bool)

  def chunk(k, carry):
    tokens, nfe = carry
    # The last chunk may be cut short; it reads as much context as a whole one would.
    start = ends[k] - w
    window = jax.lax.dynamic_slice_in_dim(tokens, start, w, axis=1)
    end = jnp.minimum(ends[k], n_tokens) - start
    first_index_B = jnp.broadcast_to(start, keys.shape)
    window, n = _draw(
      model, params, sampler, keys, conditions, window, known, begins[k] - start, end, first_index_B
    )
    return jax.lax.dynamic_update_slice_in_dim(tokens, window, start, axis=1), nfe + n

  zero = jnp.zeros((), jnp.int32)
  tokens, nfe = jax.lax.fori_loop(0, len(ends), chunk, (tokens, zero))
  return tokens[:, :n_tokens], nfe


def _draw(model, params, sampler, keys, conditions, tokens_BW, known_BW, begin, end, first_index_B):
  """Draws positions begin <= p < end of a window after one pass over what lies before them.

  Returns the window's tokens and the number of passes.
  """
  c = model.config
  # One pass over everything before `begin` fills the cache; after that a token is one row.
  logits, cache = _read(model, params, conditions, tokens_BW, begin)
  # Before the loop, which would otherwise cut every layer's weights out in each step.
  layerwise = lm.unstack_layers(params)

  def draw(p, logits, tokens):
    # The key knows the token's index in the piece, not in the window: sliding the window, or
    # drawing a batch in other pieces, gives the same music.
    draw_keys = jax.vmap(jax.random.fold_in)(keys, first_index_B + p)
    if conditions.guard is not None:
      logits = conditions.guard.apply(logits, tokens, p)
    drawn_B = sampler.sample(logits, draw_keys)
    known_B, is_known_B = (
      jax.lax.dynamic_index_in_dim(x, p, axis=1, keepdims=False) for x in (tokens, known_BW)
    )
    # A known token is kept, but its pass is made: the cache must hold it for those after it.
    token_B1 = jnp.where(is_known_B, known_B, drawn_B)[:, None]
    return jax.lax.dynamic_update_slice_in_dim(tokens, token_B1, p, axis=1)

  def step(p, carry):
    tokens, cache, nfe = carry
    token_B = jax.lax.dynamic_index_in_dim(tokens, p - 1, axis=1, keepdims=False)
    rows = token_B if conditions.guidance_scale is None else jnp.concatenate([token_B, token_B])
    position = c.style_levels + p - 1
    logits, cache = lm.decode_step(model, layerwise, lm.semantic_ids(c, rows), position, cache)
    return draw(p, _guide(logits, conditions), tokens), cache, nfe + 1

  tokens = draw(begin, logits, tokens_BW)
  one = jnp.ones((), jnp.int32)  # the prefill, which predicts the first token
  tokens, _, nfe = jax.lax.fori_loop(begin + 1, end, step, (tokens, cache, one))
  return tokens, nfe


def _read(model, params, conditions, tokens_BW, begin):
  """Prefill over style tokens and the window before `begin` -> (guided logits [B, V], cache)."""
  c = model.config
  style = conditions.style_tokens
  if conditions.guidance_scale is not None:
    negative = conditions.negative_style
    if negative is None:
      # What rows without style looked like in training.
      negative = jnp.full_like(style, c.null_style)
    style = jnp.concatenate([style, negative])
    tokens_BW = jnp.concatenate([tokens_BW, tokens_BW])
  ids = lm.sequence_ids(c, style, tokens_BW)
  # Columns from `begin` on are not seen, and are overwritten in the cache before they are.
  logits, cache = lm.prefill(model, params, ids, c.style_levels + begin, ids.shape[1])
  return _guide(logits, conditions), cache


def _guide(logits_RV, conditions):
  if conditions.guidance_scale is None:
    return logits_RV
  with_style, without = jnp.split(logits_RV, 2)
  # In this form a scale of 1 adds exactly nothing; u + s (c - u) would round.
  extra = jnp.asarray(conditions.guidance_scale, logits_RV.dtype) - 1
  extra = jnp.broadcast_to(extra.reshape(-1, 1), with_style.shape)
  return with_style + extra * (with_style - without)  # scale 1 is exactly `with_style`
