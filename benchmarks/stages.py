"""The stages of sampling as programs of their own: tokens, latents, audio.

They are made of what the sampler is made of (`token_sampler.generate`, `diffusion.sample`,
`encoders.codec.decode_latents`), over the same windows: up to one window (10 s) a stage is one pass
over it; longer music slides the window by a quarter, of which the DPD knows the last three
quarters (docs/spec.md, section 6), and decodes windows that overlap. Each stage counts the passes
of its network while it runs.

Shape letters: B items, N semantic tokens, L latent frames, D latent channels, T samples.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.generator import Generator
from melody_jax import diffusion
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.encoders.codec import decode_latents
from melody_jax.encoders.windows import Window, overlapping_windows
from melody_jax.generation import token_sampler
from melody_jax.models.dpd import DPD
from melody_jax.models.vae import decoder_reach

SEMANTIC_RATE = 25  # tokens a second


@dataclasses.dataclass(frozen=True)
class Piece:
  """Where the windows of a piece of music lie.

  Attributes:
    n_tokens: semantic tokens N.
    n_frames: latent frames L.
    window_tokens, window_frames: of one window; those of the piece where it is shorter.
    token_starts, frame_starts: where each of the DPD's windows begins.
    chunks: chunks of a window, by one of which windows move.
    decoder_context: frames on either side of a window that the decoder reads and that are dropped.
  """

  n_tokens: int
  n_frames: int
  window_tokens: int
  window_frames: int
  token_starts: tuple[int, ...]
  frame_starts: tuple[int, ...]
  chunks: int
  decoder_context: int

  @classmethod
  def of(cls, generator: Generator, seconds: float) -> "Piece":
    """The piece of this length; past one window it ends at the next chunk of a window."""
    chunks, context = generator.dpd.config.chunks, decoder_reach(generator.vae)
    window_tokens = generator.lm.config.window_tokens
    window_seconds = window_tokens / SEMANTIC_RATE
    window_frames = round(window_seconds * SAMPLE_RATE) // generator.vae.hop_length
    if seconds <= window_seconds:
      n_tokens = max(round(seconds * SEMANTIC_RATE), 1)
      n_frames = max(round(seconds * SAMPLE_RATE) // generator.vae.hop_length, 1)
      return cls(n_tokens, n_frames, n_tokens, n_frames, (0,), (0,), chunks, context)
    n_chunks = -(-round(seconds * SEMANTIC_RATE) * chunks // window_tokens)
    slides = range(n_chunks - chunks + 1)
    token_starts = tuple(k * window_tokens // chunks for k in slides)
    frame_starts = tuple(k * window_frames // chunks for k in slides)
    return cls(
      token_starts[-1] + window_tokens, frame_starts[-1] + window_frames, window_tokens,
      window_frames, token_starts, frame_starts, chunks, context,
    )  # fmt: skip

  @property
  def decoder_windows(self) -> list[Window]:
    """Frames that the decoder reads and keeps, one window a call."""
    if self.n_frames == self.window_frames:
      return [Window(0, 0, self.n_frames)]
    return overlapping_windows(self.n_frames, self.window_frames, self.decoder_context)


def tokens_program(generator: Generator, piece: Piece) -> Callable[..., Any]:
  """(params, keys [B], style tokens [B, levels]) -> (tokens int32 [B, N], passes int32)."""

  def program(params, keys, style_tokens):
    conditions = token_sampler.Conditions(style_tokens)
    sampler = token_sampler.make_sampler()
    return token_sampler.generate(
      generator.lm, params, sampler, keys, conditions, piece.n_tokens, piece.chunks
    )

  return program


def guided_velocity(model: DPD, params: Any, z, delta, tokens, scale: float) -> jax.Array:
  """One guided pass: rows with and without condition in one batch, [B, L, D].

  Args:
    model, params: the DPD.
    z: noisy latents [B, L, D].
    delta: angles [B, L].
    tokens: int32 [B, N].
    scale: guidance scale; 1 passes the conditional rows alone.
  """
  if scale == 1:
    return model.apply({"params": params}, z, delta, tokens)
  halves = model.apply({"params": params}, z, delta, tokens, method="with_and_without")
  return diffusion.guide(*halves, scale)


def latents_program(
  generator: Generator, piece: Piece, steps: int, scale: float, schedule: str = "linear"
) -> Callable[..., Any]:
  """(params, key, tokens [B, N]) -> (latents float32 [B, L, D], passes int32).

  The pass itself raises the count, whatever loop calls it, so that the count is of passes made.
  """
  omegas = diffusion.angle_schedule(schedule, steps)
  size = generator.dpd.config.latent_dim
  starts_W = (jnp.asarray(piece.token_starts), jnp.asarray(piece.frame_starts))
  known_frames = piece.window_frames * (piece.chunks - 1) // piece.chunks

  def program(params, key, tokens):
    batch, passes = len(tokens), jax.new_ref(jnp.zeros((), jnp.int32))

    def window(k, latents):
      token_start, frame_start = (starts[k] for starts in starts_W)
      of_window = jax.lax.dynamic_slice_in_dim(tokens, token_start, piece.window_tokens, axis=1)

      def velocity(z, delta):
        passes[...] += 1
        return guided_velocity(generator.dpd, params, z, delta, of_window, scale)

      shape = (batch, piece.window_frames, size)
      noise = jax.random.normal(jax.random.fold_in(key, k), shape)
      if len(piece.frame_starts) == 1:
        made = diffusion.sample(velocity, noise, omegas)
      else:
        known = jax.lax.dynamic_slice_in_dim(latents, frame_start, piece.window_frames, axis=1)
        done = jnp.where(k > 0, known_frames, 0)
        mask = jnp.broadcast_to(jnp.arange(piece.window_frames)[None] < done, shape[:2])
        made = diffusion.sample(velocity, noise, omegas, known, mask)
      made = jnp.clip(made, -1.0, 1.0)
      return jax.lax.dynamic_update_slice_in_dim(latents, made, frame_start, axis=1)

    latents = jnp.zeros((batch, piece.n_frames, size))
    latents = jax.lax.fori_loop(0, len(piece.frame_starts), window, latents)
    return latents, passes[...]

  return program


def audio_program(generator: Generator, piece: Piece) -> Callable[..., Any]:
  """(params, latents [B, L, D]) -> (audio float32 [B, T], passes int32), window after window."""
  windows = piece.decoder_windows
  hop = generator.vae.hop_length

  def program(params, latents):
    passes = jax.new_ref(jnp.zeros((), jnp.int32))

    def decode(start):
      passes[...] += 1
      part = jax.lax.dynamic_slice_in_dim(latents, start, piece.window_frames, axis=1)
      return decode_latents(generator.vae, params, part, jnp.full((len(part),), start))

    audio_WxBxT = jax.lax.map(decode, jnp.asarray([w.start for w in windows]))
    kept = [
      audio[:, (w.begin - w.start) * hop : (w.end - w.start) * hop]
      for audio, w in zip(audio_WxBxT, windows, strict=True)
    ]
    return jnp.concatenate(kept, axis=1), passes[...]

  return program
