"""Semantic tokens from the LM: sampling rules, guidance and the compiled sampling loop.

SPEC section 5. A rule (`Greedy`, `Categorical`, `TopK`, `TopP`, `Filtered`) is a frozen
dataclass with one method. Everything here is pure and runs under jit; every item of a batch
has a key of its own, and the key of a draw depends on nothing but that key and the token's
index, so that an item's tokens do not depend on the batch that it travels in.

Music longer than the LM's window slides it: the style tokens and the last three quarters
(7.5 s of 10 s) of the semantic tokens are read again in one pass, then the window is filled
up. `generate` does all of it in one program; `start` and `extend` do it chunk by chunk
and give the same tokens. Every token costs one pass of the network, counted where the passes
are made.

Shape letters: B items, R network rows (B, or 2 B with guidance), V semantic vocabulary,
W window tokens, N new tokens.
"""

import itertools
from typing import Any, Protocol

import flax
import jax
import jax.numpy as jnp

from melody_jax.errors import UserError
from melody_jax.models import lm

CHUNKS_PER_WINDOW = 4  # a sliding window moves by a quarter: 2.5 s of 10 s


class Sampler(Protocol):
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
    temperature: divides the logits, > 0.
    top_k: the k most likely tokens stay; None: all.
    top_p: of those the smallest set whose probability, most likely first, reaches p stays
      (Holtzman et al., arXiv 1904.09751); None: all.
  """

  temperature: Any = 1.0
  top_k: Any = None
  top_p: Any = None

  def filter(self, logits_BV: jax.Array) -> jax.Array:
    """[B, V] -> scaled logits [B, V], -inf where a token is out. Ties at a border all stay."""
    logits_BV = logits_BV / self.temperature
    if self.top_k is None and self.top_p is None:
      return logits_BV
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
    return jax.vmap(jax.random.categorical)(keys_B, self.filter(logits_BV)).astype(jnp.int32)


@flax.struct.dataclass
class Categorical:
  """A draw at a temperature among all tokens."""

  temperature: Any = 1.0

  def sample(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    return Filtered(self.temperature).sample(logits_BV, keys_B)


@flax.struct.dataclass
class TopK:
  """A draw at a temperature among the k most likely tokens."""

  k: Any
  temperature: Any = 1.0

  def sample(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    return Filtered(self.temperature, top_k=self.k).sample(logits_BV, keys_B)


@flax.struct.dataclass
class TopP:
  """A draw at a temperature from the nucleus of probability p."""

  p: Any
  temperature: Any = 1.0

  def sample(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    return Filtered(self.temperature, top_p=self.p).sample(logits_BV, keys_B)


def make_sampler(
  temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Sampler:
  """The rule of a user's three numbers; temperature 0 is greedy, None switches a filter off.

  Raises:
    UserError: for a number out of its range.
  """
  if not 0 <= temperature < float("inf"):
    raise UserError(f"temperature is {temperature}: it must be 0 (greedy) or more")
  if top_k is not None and top_k < 1:
    raise UserError(f"top_k is {top_k}: it must be 1 or more, or None for all tokens")
  if top_p is not None and not 0 < top_p <= 1:
    raise UserError(f"top_p is {top_p}: it must lie in (0, 1], or be None for all tokens")
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
    """Penalised logits; the last tokens are the `span` columns of `tokens_BW` before `end`."""
    column_W = jnp.arange(tokens_BW.shape[1])
    recent_W = ((column_W < end) & (column_W >= end - self.span)).astype(jnp.float32)
    count = jax.vmap(lambda tokens: jnp.zeros(logits_BV.shape[1]).at[tokens].add(recent_W))
    return logits_BV - self.penalty * count(tokens_BW)


@flax.struct.dataclass
class TokenStream:
  """All that generation remembers between chunks; a pytree that can be saved or branched.

  Attributes:
    keys: one PRNG key an item [B].
    window: int32 [B, W], the latest tokens, oldest first.
    n_window: int32 scalar, how many columns of `window` are real.
    n_generated: int32 scalar, tokens drawn so far; indexes the keys of draws.
    nfe: int32 scalar, network passes so far (a guided pass over 2 B rows is one).
  """

  keys: jax.Array
  window: jax.Array
  n_window: jax.Array
  n_generated: jax.Array
  nfe: jax.Array


@flax.struct.dataclass
class Conditions:
  """What steers every token; shapes are static, values may change from chunk to chunk.

  Attributes:
    style_tokens: int32 [B, levels].
    guidance_scale: scalar or [B]: logits = c + (scale - 1)(c - u) with u the logits under
      `negative_style` (Ho & Salimans, arXiv 2207.12598). None: one row an item, no guidance.
    negative_style: int32 [B, levels] to move away from; None: the learned "no style".
    guard: optional repetition guard.
  """

  style_tokens: jax.Array
  guidance_scale: Any = None
  negative_style: Any = None
  guard: RepetitionGuard | None = None


def start(
  config: lm.LMConfig, keys: jax.Array, prompt_tokens: jax.Array | None = None
) -> TokenStream:
  """A stream before its first token, or one that goes on after `prompt_tokens` int32 [B, P]."""
  b, w = keys.shape[0], config.window_tokens
  window, n_window = jnp.zeros((b, w), jnp.int32), 0
  if prompt_tokens is not None:
    last = prompt_tokens[:, -w:].astype(jnp.int32)
    n_window = last.shape[1]
    window = window.at[:, :n_window].set(last)
  zero = jnp.zeros((), jnp.int32)
  return TokenStream(keys, window, jnp.asarray(n_window, jnp.int32), zero, zero)


def extend(
  model: lm.SemanticLM,
  params: Any,
  sampler: Sampler,
  stream: TokenStream,
  conditions: Conditions,
  n_tokens: int,
) -> tuple[TokenStream, jax.Array]:
  """Draws the next `n_tokens` (static, 1 .. W) tokens of a stream.

  As many tokens of the window are read again as leave room for the new ones: with chunks of a
  quarter window, the last three quarters.

  Returns:
    the stream after them, tokens int32 [B, n_tokens].
  """
  w = model.config.window_tokens
  if not 1 <= n_tokens <= w:
    raise ValueError(f"n_tokens is {n_tokens}: a chunk has 1 to {w} tokens")
  context = w - n_tokens
  return _extend(model, params, sampler, stream, conditions, n_tokens, context, n_tokens, context)


def chunk_sizes(window_tokens: int, n_chunks: int) -> list[int]:
  """Tokens of successive chunks of a quarter window: 62, 63, 62, 63, ... at 250."""
  edges = [k * window_tokens // CHUNKS_PER_WINDOW for k in range(n_chunks + 1)]
  return [b - a for a, b in itertools.pairwise(edges)]


def generate(
  model: lm.SemanticLM,
  params: Any,
  sampler: Sampler,
  keys: jax.Array,
  conditions: Conditions,
  n_tokens: int,
  prompt_tokens: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Draws `n_tokens` (static) tokens an item in one program.

  Args:
    model: the LM (static).
    params: its parameters.
    sampler: the rule.
    keys: one PRNG key an item [B].
    conditions: style tokens, guidance, guard.
    n_tokens: how many tokens; a shorter call yields a prefix of a longer one's tokens.
    prompt_tokens: int32 [B, P], tokens of the music to go on from.

  Returns:
    tokens int32 [B, n_tokens] without the prompt, and the number of network passes (int32).
  """
  stream = start(model.config, keys, prompt_tokens)
  w = model.config.window_tokens
  quarter = -(-w // CHUNKS_PER_WINDOW)
  held = 0 if prompt_tokens is None else min(prompt_tokens.shape[1], w)
  first = w - held if w - held >= quarter else 0  # what fits without sliding
  tokens = jnp.zeros((keys.shape[0], n_tokens + quarter), jnp.int32)
  if first:
    n = min(first, n_tokens)
    stream, drawn = _extend(model, params, sampler, stream, conditions, n, held, n, held)
    tokens = tokens.at[:, :n].set(drawn)
  remaining = n_tokens - first
  if remaining <= 0:
    return tokens[:, :n_tokens], stream.nfe

  smallest = w // CHUNKS_PER_WINDOW
  nominal = chunk_sizes(w, -(-remaining // smallest))
  sizes, left = [], remaining
  for size in nominal:
    sizes.append(min(size, left))
    left -= sizes[-1]
  n_chunks = sum(size > 0 for size in sizes)
  sizes_C, nominal_C = jnp.asarray(sizes), jnp.asarray(nominal)

  def chunk(k, carry):
    stream, tokens = carry
    # The last chunk may be cut short; it reads as much context as a whole one would.
    after, drawn = _extend(
      model,
      params,
      sampler,
      stream,
      conditions,
      sizes_C[k],
      w - nominal_C[k],
      quarter,
      w - smallest,
    )
    at = stream.n_generated
    return after, jax.lax.dynamic_update_slice_in_dim(tokens, drawn, at, axis=1)

  stream, tokens = jax.lax.fori_loop(0, n_chunks, chunk, (stream, tokens))
  return tokens[:, :n_tokens], stream.nfe


def _extend(model, params, sampler, stream, conditions, n, keep, max_n, max_keep):
  """Draws n <= max_n tokens after the last min(keep, n_window) <= max_keep; max_* are static.

  Returns the stream and tokens [B, max_n], meaningless from column n on.
  """
  c = model.config
  kept = jnp.minimum(stream.n_window, keep)
  columns = jnp.clip(stream.n_window - kept + jnp.arange(max_keep), 0, c.window_tokens - 1)
  buffer = jnp.take(stream.window, columns, axis=1)
  buffer = jnp.pad(buffer, ((0, 0), (0, max_n)))  # kept tokens first, new ones follow
  logits, cache, nfe = _read(
    model, params, conditions, buffer[:, :max_keep], kept, max_n, stream.nfe
  )

  layerwise = lm.unstack_layers(params)

  def draw(j, logits, buffer):
    keys = jax.vmap(lambda key: jax.random.fold_in(key, stream.n_generated + j))(stream.keys)
    if conditions.guard is not None:
      logits = conditions.guard.apply(logits, buffer, kept + j)
    tokens_B1 = sampler.sample(logits, keys)[:, None]
    return jax.lax.dynamic_update_slice_in_dim(buffer, tokens_B1, kept + j, axis=1)

  def step(j, carry):
    buffer, cache, nfe = carry
    token_B = jax.lax.dynamic_index_in_dim(buffer, kept + j - 1, axis=1, keepdims=False)
    rows = token_B if conditions.guidance_scale is None else jnp.concatenate([token_B, token_B])
    position = c.style_levels + kept + j - 1
    logits, cache = lm.decode_step(model, layerwise, lm.semantic_ids(c, rows), position, cache)
    return draw(j, _guide(logits, conditions), buffer), cache, nfe + 1

  buffer = draw(0, logits, buffer)
  buffer, _, nfe = jax.lax.fori_loop(1, n, step, (buffer, cache, nfe))
  drawn = jax.lax.dynamic_slice_in_dim(buffer, kept, max_n, axis=1)
  window = jnp.pad(buffer, ((0, 0), (0, c.window_tokens)))[:, : c.window_tokens]
  after = stream.replace(
    window=window, n_window=kept + n, n_generated=stream.n_generated + n, nfe=nfe
  )
  return after, drawn


def _read(model, params, conditions, kept_tokens, kept, max_n, nfe):
  """Prefill over style tokens and the kept tokens -> (guided logits [B, V], cache, nfe)."""
  c = model.config
  style = conditions.style_tokens
  if conditions.guidance_scale is not None:
    negative = conditions.negative_style
    if negative is None:
      negative = jnp.full_like(style, c.null_style)
    style = jnp.concatenate([style, negative])
    kept_tokens = jnp.concatenate([kept_tokens, kept_tokens])
  ids = lm.sequence_ids(c, style, kept_tokens)
  capacity = ids.shape[1] + max_n
  logits, cache = lm.prefill(model, params, ids, c.style_levels + kept, capacity)
  return _guide(logits, conditions), cache, nfe + 1


def _guide(logits_RV, conditions):
  if conditions.guidance_scale is None:
    return logits_RV
  with_style, without = jnp.split(logits_RV, 2)
  extra = jnp.asarray(conditions.guidance_scale, logits_RV.dtype) - 1
  extra = jnp.broadcast_to(extra.reshape(-1, 1), with_style.shape)
  return with_style + extra * (with_style - without)  # scale 1 is exactly `with_style`
