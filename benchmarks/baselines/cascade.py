"""A cascade of three language models in the shape of MusicLM, in the code of our semantic LM.

It follows MusicLM (arXiv 2301.11325) and AudioLM (arXiv 2209.03143, section IV), over SoundStream
tokens: 50 frames per second, 12 codebooks of 1,024. Every token costs one network pass:

    semantic     25 tokens per second, conditioned on 12 style tokens
    coarse      200 = 50 x 4 codebooks, conditioned on style and semantic tokens
    fine        400 = 50 x 8 codebooks, conditioned on style and coarse tokens

All three have the layers, width and heads of our semantic LM, and random weights. These choices
favour the cascade or are neutral:

- Windows: the semantic ones are ours. Coarse windows last 10 s and move by 2.5 s; the last 7.5 s
  are read again in one pass, as ours. Fine windows last 3 s and do not overlap, as AudioLM's.
- The head at a position predicts only its own codebook (1,024 logits).
- A cache grows by 512 positions at a time, so that attention does not run over a window that is
  mostly empty.
- No codec turns the tokens into sound: SoundStream's decoder would cost more time.

Shape letters: B items, F frames (50 Hz), P prefix and K kept positions, N new tokens.
"""

from collections.abc import Callable
import dataclasses
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from benchmarks import floor
from benchmarks.generator import init_lm, store_as
from melody_jax.generation import token_sampler
from melody_jax.generation.window import SEMANTIC_RATE
from melody_jax.models import lm

FRAME_RATE = 50  # SoundStream's, at 24 kHz
STYLE_TOKENS = 12
CACHE_STEP = 512  # positions by which a cache grows


@dataclasses.dataclass(frozen=True)
class Chunk:
  """New tokens of a stage, and the tokens of the same window before them, which are read again.

  Attributes:
    start: First frame of the window.
    kept: Number of frames that are read again.
    new: Number of frames that are drawn.
  """

  start: int
  kept: int
  new: int


@dataclasses.dataclass(frozen=True)
class AcousticStage:
  """One acoustic language model.

  Attributes:
    name: "coarse" or "fine".
    levels: Number of codebooks that it predicts, interleaved frame by frame.
    condition_levels: Number of codebooks of the stage before it (1 for semantic tokens).
    condition_rate: Tokens per second of the stage before it.
    window: Number of frames in a window.
    hop: Number of frames by which the window moves.
  """

  name: str
  levels: int
  condition_levels: int
  condition_rate: int
  window: int
  hop: int

  @property
  def rate(self) -> int:
    """Tokens per second."""
    return self.levels * FRAME_RATE

  def model_of(self, semantic: lm.LMConfig) -> lm.SemanticLM:
    """The semantic LM with the embedding table of this stage.

    The table has a block of rows for every codebook; the stage's own codebooks come last.
    """
    blocks = STYLE_TOKENS + self.condition_levels + self.levels
    config = dataclasses.replace(
      semantic, style_levels=blocks - 1, fixed_styles=False, summed_styles=False, head="semantic"
    )
    return lm.SemanticLM(config)

  def chunks(self, frames: int) -> list[Chunk]:
    """The chunks in which the stage makes a piece of this many frames."""
    first = min(frames, self.window)
    chunks, done = [Chunk(0, 0, first)], first
    while done < frames:
      start = done + self.hop - self.window
      new = min(self.hop, frames - done)
      chunks.append(Chunk(start, self.window - self.hop, new))
      done += new
    return chunks

  def condition_tokens(self, chunk: Chunk) -> int:
    """Number of tokens of the stage before that a chunk reads: those of the chunk's own frames."""
    return (chunk.kept + chunk.new) * self.condition_rate // FRAME_RATE


COARSE = AcousticStage("coarse", 4, 1, SEMANTIC_RATE, window=500, hop=125)
FINE = AcousticStage("fine", 8, 4, 4 * FRAME_RATE, window=150, hop=150)


def init(stage: AcousticStage, semantic: lm.LMConfig, key: jax.Array) -> Any:
  """Random parameters of a stage; its head has one kernel per codebook, [levels, D, V]."""
  config = stage.model_of(semantic).config

  def born(key):
    body, *heads = jax.random.split(key, 1 + stage.levels)
    params = nn.meta.unbox(init_lm(config, body))
    kernel = params["head"]["projection"]["kernel"]
    draws = [jax.random.normal(k, kernel.shape) / config.width**0.5 for k in heads]
    params["head"]["projection"]["kernel"] = jnp.stack(draws)
    return store_as(params, config.dtype)

  return jax.jit(born)(key)


def _rows(config: lm.LMConfig, tokens: jax.Array, block: Any) -> jax.Array:
  """Rows of the embedding table for tokens of one block, or each of a block of its own."""
  return tokens + block * (config.style_vocab + 1)


def _interleaved_rows(config, tokens_BxN, first_block: int, levels: int) -> jax.Array:
  blocks_N = first_block + jnp.arange(tokens_BxN.shape[1]) % levels
  return _rows(config, tokens_BxN, blocks_N[None, :])


def _with_head(params: Any, level: Any) -> Any:
  """The parameters with the head of one codebook only."""
  kernel = params["head"]["projection"]["kernel"][level]
  return {**params, "head": {**params["head"], "projection": {"kernel": kernel}}}


def capacities(positions: int, new: int) -> list[tuple[int, int, int]]:
  """Sizes of the growing cache.

  Token 0 comes out of the pass over the `positions` before it; token j is at positions + j.

  Args:
    positions: Number of positions before the new tokens.
    new: Number of new tokens.

  Returns:
    (first, end, capacity): tokens first .. end - 1 are drawn with a cache of this capacity.
  """
  edges = [*range(1, new, CACHE_STEP), new]
  return [(a, b, positions + b) for a, b in itertools.pairwise(edges)]


def _draw_chunk(stage, model, params, sampler, keys, prefix_BxP, kept_BxK, new, offset, passes):
  """Draws `new` (a static number) tokens; returns (tokens [B, new], passes)."""
  c, levels = model.config, stage.levels
  # The semantic vocabulary's block, the last one, belongs to the last codebook.
  own = c.style_levels + 1 - levels  # first block of this stage's codebooks
  before = jnp.concatenate([prefix_BxP, _interleaved_rows(c, kept_BxK, own, levels)], axis=1)
  positions = before.shape[1]
  layerwise = lm.unstack_layers(params)

  def draw(j, logits, tokens):
    # By position in the piece, so that a token does not depend on the cut into chunks.
    draw_keys = jax.vmap(lambda key: jax.random.fold_in(key, offset + j))(keys)
    token_Bx1 = sampler.sample(logits, draw_keys)[:, None]
    return jax.lax.dynamic_update_slice_in_dim(tokens, token_Bx1, j, axis=1)

  def step(j, carry):
    tokens, cache, passes = carry
    last = jax.lax.dynamic_index_in_dim(tokens, j - 1, axis=1, keepdims=False)
    ids = _rows(c, last, own + (j - 1) % levels)
    here = _with_head(layerwise, j % levels)
    logits, cache = lm.decode_step(model, here, ids, positions + j - 1, cache)
    return draw(j, logits, tokens), cache, passes + 1

  logits, cache = lm.prefill(model, _with_head(params, 0), before, positions, positions)
  tokens = draw(0, logits, jnp.zeros((len(before), new), jnp.int32))
  passes += 1
  for first, end, capacity in capacities(positions, new):
    # A loop is compiled for each capacity: attention over a short cache is worth that.
    room = capacity - cache.keys[0].shape[2]
    grown = jax.tree.map(lambda x, r=room: jnp.pad(x, ((0, 0), (0, 0), (0, r), (0, 0))), cache)
    tokens, cache, passes = jax.lax.fori_loop(first, end, step, (tokens, grown, passes))
  return tokens, passes


def program(
  stage: AcousticStage, model: lm.SemanticLM, frames: int, sampler: token_sampler.TokenSampler
) -> Callable[..., Any]:
  """Makes the program of one stage for a whole piece.

  Returns:
    A function (params, keys [B], style [B, 12], condition [B, tokens of the stage before])
    -> (tokens int32 [B, frames * levels], passes, an int32 scalar raised where a pass is made).
  """
  c, levels = model.config, stage.levels
  groups = [
    list(group) for _, group in itertools.groupby(stage.chunks(frames), lambda x: (x.kept, x.new))
  ]

  def run(params, keys, style_tokens, condition_tokens):
    def chunk_at(chunk, start, tokens, passes):
      n = stage.condition_tokens(chunk)
      at = start * stage.condition_rate // FRAME_RATE
      condition = jax.lax.dynamic_slice_in_dim(condition_tokens, at, n, axis=1)
      # A window at an odd frame begins inside a semantic token, never inside an acoustic frame.
      prefix = [
        _interleaved_rows(c, style_tokens, 0, STYLE_TOKENS),
        _interleaved_rows(c, condition, STYLE_TOKENS, stage.condition_levels),
      ]
      kept = jax.lax.dynamic_slice_in_dim(tokens, start * levels, chunk.kept * levels, axis=1)
      offset = (start + chunk.kept) * levels
      drawn, passes = _draw_chunk(
        stage, model, params, sampler, keys, jnp.concatenate(prefix, axis=1), kept,
        chunk.new * levels, offset, passes,
      )  # fmt: skip
      return jax.lax.dynamic_update_slice_in_dim(tokens, drawn, offset, axis=1), passes

    tokens = jnp.zeros((len(keys), frames * levels), jnp.int32)
    carry = (tokens, jnp.zeros((), jnp.int32))
    for group in groups:
      starts_C = jnp.asarray([chunk.start for chunk in group])

      def step(k, carry, chunk=group[0], starts_C=starts_C):
        return chunk_at(chunk, starts_C[k], *carry)

      carry = jax.lax.fori_loop(0, len(group), step, carry)
    return carry

  return run


def passes_of(
  stage: AcousticStage, model: lm.SemanticLM, params: Any, frames: int, batch: int
) -> list[floor.Pass]:
  """The passes of a stage, for its floor; see `benchmarks.floor`."""
  one_head = jax.eval_shape(lambda p: _with_head(p, 0), params)
  found = []
  for (_, new), group in itertools.groupby(stage.chunks(frames), lambda x: (x.kept, x.new)):
    chunks = list(group)
    positions = STYLE_TOKENS + stage.condition_tokens(chunks[0]) + chunks[0].kept * stage.levels
    found.append(floor.prefill_pass(model, one_head, batch, positions, len(chunks)))
    found += [
      floor.decode_pass(model, one_head, batch, capacity, len(chunks) * (end - first))
      for first, end, capacity in capacities(positions, new * stage.levels)
    ]
  return [p for p in found if p.count]
