"""The floor of a stage: the least time that its passes need, computed from shapes alone.

A pass does the matmuls in its jaxpr. It reads its weights once, and its cache once, at the static
size that the cache has in the program. With the matmul rate and the memory bandwidth measured on
the device, it takes at least

    max(FLOPs / rate, bytes / bandwidth)

Recurrences, norms, softmax and activations count as nothing: this is a floor, not a forecast.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.device import matmul_peak, memory_bandwidth
from benchmarks.generator import Generator
from benchmarks.stages import PieceLayout, guided_velocity
from melody_jax.encoders.codec import decode_latents
from melody_jax.models import lm as lm_model
from melody_jax.training.flops import matmul_flops


@dataclasses.dataclass(frozen=True)
class Pass:
  """Equal passes of one network.

  Attributes:
    count: Number of such passes for a piece of music.
    flops: Matmul and convolution operations of one pass.
    weight_bytes: Bytes of parameters that one pass reads.
    cache_bytes: Bytes of keys and values, or of latents and audio, that one pass reads or writes.
  """

  count: int
  flops: float
  weight_bytes: float
  cache_bytes: float


@dataclasses.dataclass(frozen=True)
class Floor:
  """The floor of one stage.

  Attributes:
    passes: Number of network passes.
    flops: Matmul and convolution operations of all passes.
    weight_bytes: Bytes of parameters that all passes read.
    cache_bytes: Bytes of caches, or of latents and audio, that all passes read or write.
    compute_seconds: Operations divided by the matmul rate.
    memory_seconds: Bytes divided by the memory bandwidth.
    seconds: The larger of the two in each pass, summed over the passes.
  """

  passes: int
  flops: float
  weight_bytes: float
  cache_bytes: float
  compute_seconds: float
  memory_seconds: float
  seconds: float


class Device:
  """Rates of this device, each measured when it is first used.

  Args:
    measure_matmul: Maps a dtype to FLOP/s.
    measure_memory: Maps a working set in bytes to bytes per second.

  Attributes:
    matmul_rates: {dtype: FLOP/s}, those measured so far.
    bandwidths: {MiB of working set: bytes per second}, those measured so far.
  """

  def __init__(
    self,
    measure_matmul: Callable[[str], float] = matmul_peak,
    measure_memory: Callable[[int], float] = memory_bandwidth,
  ):
    self._measure_matmul, self._measure_memory = measure_matmul, measure_memory
    self.matmul_rates: dict[str, float] = {}
    self.bandwidths: dict[int, float] = {}

  def matmul(self, dtype: str) -> float:
    """FLOP/s of a large matmul in a dtype."""
    if dtype not in self.matmul_rates:
      self.matmul_rates[dtype] = self._measure_matmul(dtype)
    return self.matmul_rates[dtype]

  def bandwidth(self, working_set: float) -> float:
    """Bytes per second over a working set of about this many bytes."""
    # Rounded up to a power of two of MiB, up to 512: a dozen measurements serve all passes.
    mebibytes = 1
    while mebibytes < 512 and mebibytes * 2**20 < working_set:
      mebibytes *= 2
    if mebibytes not in self.bandwidths:
      self.bandwidths[mebibytes] = self._measure_memory(mebibytes * 2**20)
    return self.bandwidths[mebibytes]

  def floor(self, passes: list[Pass], dtype: str) -> Floor:
    """The floor of a stage that consists of these passes, with matmuls in `dtype`."""
    compute = memory = seconds = 0.0
    for p in passes:
      moved = p.weight_bytes + p.cache_bytes
      # Per pass, not per stage: a stage may have passes bound by memory and others by compute.
      at_compute = p.flops / self.matmul(dtype)
      at_memory = moved / self.bandwidth(moved)
      compute += p.count * at_compute
      memory += p.count * at_memory
      seconds += p.count * max(at_compute, at_memory)

    def total(name):
      return sum(p.count * getattr(p, name) for p in passes)

    return Floor(
      sum(p.count for p in passes), total("flops"), total("weight_bytes"), total("cache_bytes"),
      compute, memory, seconds,
    )  # fmt: skip


def tree_bytes(tree: Any) -> float:
  """Bytes of all arrays in a tree."""
  return float(sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree)))


def _shapes(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _ids(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def lm_weight_bytes(config: lm_model.LMConfig, params: Any, rows: int, prefix: bool) -> float:
  """Bytes of parameters that one pass of the LM reads.

  These are all layers, the columns of the head for semantic tokens, and some rows of the embedding
  table.

  Args:
    config: Config of the LM.
    params: Its parameters.
    rows: Rows of the embedding table that are looked up.
    prefix: Whether the pass reads the style tokens, and with them their linear map
      (`fixed_styles`).
  """
  row = config.width * jnp.dtype(config.dtype).itemsize
  # Sampling multiplies only the head's columns for semantic tokens.
  unread = params["head"]["projection"]["kernel"].shape[-1] - config.semantic_vocab
  style = tree_bytes(params["embed"].get("style", {})) if prefix else 0.0
  body = tree_bytes(params) - tree_bytes(params["embed"])
  return body - unread * row + style + rows * row


def decode_pass(
  model: lm_model.SemanticLM, params: Any, batch: int, capacity: int, count: int
) -> Pass:
  """Passes that each decode one token per row.

  Args:
    model: The LM.
    params: Its parameters.
    batch: Number of rows.
    capacity: Positions of the cache.
    count: Number of passes.
  """
  c = model.config
  shape = (batch, c.n_heads, capacity, c.head_size)
  # Shapes only: the floor of a paper-size model is computed without its memory.
  memory = (jax.ShapeDtypeStruct(shape, jnp.dtype(c.dtype)),) * c.n_layers
  cache = lm_model.KVCache(memory, memory)
  step = functools.partial(lm_model.decode_step, model)
  position = jax.ShapeDtypeStruct((), jnp.int32)
  flops = matmul_flops(step, _shapes(params), _ids(batch), position, cache)
  return Pass(count, flops, lm_weight_bytes(c, params, batch, False), tree_bytes(cache))


def prefill_pass(
  model: lm_model.SemanticLM, params: Any, batch: int, length: int, count: int
) -> Pass:
  """Passes that each read a prefix and write its keys and values.

  Args:
    model: The LM.
    params: Its parameters.
    batch: Number of rows.
    length: Positions of the prefix.
    count: Number of passes.
  """
  c = model.config

  def read(params, ids):
    return lm_model.prefill(model, params, ids, length, length)

  ids = _ids(batch, length)
  flops = matmul_flops(read, _shapes(params), ids)
  _, cache = jax.eval_shape(read, _shapes(params), ids)
  weights = lm_weight_bytes(c, params, batch * length, True)
  return Pass(count, flops, weights, tree_bytes(cache))


def lm_passes(generator: Generator, piece: PieceLayout, batch: int) -> list[Pass]:
  """Of `stages.tokens_program`: a window, then chunks; each reads what it has in one pass."""
  model, params = generator.lm, generator.params["lm"]
  c = model.config
  chunks = -(-piece.n_tokens * piece.chunks // c.window_tokens)
  reads = max(chunks, piece.chunks) - piece.chunks + 1
  positions = c.style_levels + c.window_tokens
  passes = [
    prefill_pass(model, params, batch, positions, reads),
    decode_pass(model, params, batch, positions, piece.n_tokens - reads),
  ]
  return [p for p in passes if p.count]


def dpd_passes(
  generator: Generator, piece: PieceLayout, batch: int, steps: int, scale: float
) -> list[Pass]:
  """Passes of `stages.latents_program`: `steps` guided passes for every window."""
  model, params = generator.dpd, generator.params["dpd"]
  c = model.config
  z = jax.ShapeDtypeStruct((batch, piece.window_frames, c.latent_dim), jnp.float32)
  delta = jax.ShapeDtypeStruct(z.shape[:2], jnp.float32)

  def velocity(params, z, delta, tokens):
    return guided_velocity(model, params, z, delta, tokens, scale)

  flops = matmul_flops(velocity, _shapes(params), z, delta, _ids(batch, piece.window_tokens))
  # Of an embedding table a pass reads the rows that it looks up, not the whole.
  table = params["semantic_embed"]["embedding"]
  looked_up = batch * piece.window_tokens * table.shape[1] * table.dtype.itemsize
  weights = tree_bytes(params) - tree_bytes(table) + looked_up
  count = steps * len(piece.frame_starts)
  return [Pass(count, flops, weights, 2 * tree_bytes(z))]


def decoder_passes(generator: Generator, piece: PieceLayout, batch: int) -> list[Pass]:
  """Passes of `stages.audio_program`: one for every window."""
  params = generator.params["vae"]
  decode = functools.partial(decode_latents, generator.vae)
  shape = (batch, piece.window_frames, generator.vae.latent_dim)
  latents = jax.ShapeDtypeStruct(shape, jnp.float32)
  audio = 4.0 * batch * piece.window_frames * generator.vae.hop_length
  flops = matmul_flops(decode, _shapes(params), latents)
  count = len(piece.decoder_windows)
  return [Pass(count, flops, tree_bytes(params), tree_bytes(latents) + audio)]
