"""The stages of sampling as separate programs: tokens, latents, audio.

They use the same functions as the sampler (`token_sampler.generate`, `diffusion.sample`,
`encoders.codec.decode_latents`) and the same windows. Music of up to one window (10 s) is made in
that one window. For longer music the window moves by a chunk (2 s with `nano`, 2.5 s with `paper`),
the DPD already knows the rest of it (docs/spec.md, section 6), and the decoder's windows overlap.
Each stage counts the passes of its network while it runs.

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
from melody_jax.encoders.windows import Span, overlapping_windows
from melody_jax.generation import token_sampler
from melody_jax.generation.schedules import angle_schedule
from melody_jax.generation.window import SEMANTIC_RATE
from melody_jax.models.denoiser import LatentDenoiser
from melody_jax.models.vae import decoder_reach


@dataclasses.dataclass(frozen=True)
class PieceLayout:
  """A piece of music and the places of its windows.

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
  def of(cls, generator: Generator, seconds: float) -> "PieceLayout":
    """The piece of this length; past one window it ends at the next chunk of a window."""
    chunks, context = generator.dpd.config.chunks, decoder_reach(generator.vae)
    window_tokens = generator.lm.config.window_tokens
    # Sizes follow the generator: presets differ in latent rate and window.
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
  def decoder_windows(self) -> list[Span]:
    """Frames that the decoder reads and keeps, one window a call."""
    return overlapping_windows(self.n_frames, self.window_frames, self.decoder_context)


def tokens_program(generator: Generator, piece: PieceLayout) -> Callable[..., Any]:
  """Makes the program of the LM.

  Returns:
    A function (params, keys [B], style tokens [B, levels]) -> (tokens int32 [B, N], passes, an
    int32 scalar).
  """

  def program(params, keys, style_tokens):
    conditions = token_sampler.Conditions(style_tokens)
    sampler = token_sampler.make_token_sampler()
    return token_sampler.generate(
      generator.lm, params, sampler, keys, conditions, piece.n_tokens, piece.chunks
    )

  return program


def guided_velocity(
  model: LatentDenoiser, params: Any, z, delta, tokens, scale: float
) -> jax.Array:
  """Velocity [B, L, D] of one guided pass, with conditional and unconditional rows in one batch.

  Args:
    model: The DPD.
    params: Its parameters.
    z: Noisy latents [B, L, D].
    delta: Angles [B, L].
    tokens: Semantic tokens, int32 [B, N].
    scale: Guidance scale; with 1 only the conditional rows are computed.
  """
  if scale == 1:
    return model.apply({"params": params}, z, delta, tokens)
  halves = model.apply({"params": params}, z, delta, tokens, method="with_and_without")
  return diffusion.guide(*halves, scale)


def latents_program(
  generator: Generator, piece: PieceLayout, steps: int, scale: float, schedule: str = "linear"
) -> Callable[..., Any]:
  """Makes the program of the DPD.

  The network pass itself raises the count, so all passes are counted, whatever loop makes them.

  Returns:
    A function (params, key, tokens [B, N]) -> (latents float32 [B, L, D], passes, an int32 scalar).
  """
  omegas = angle_schedule(schedule, steps)
  size = generator.dpd.config.latent_dim
  # Starts are data, so that one loop body serves all windows.
  starts_W = (jnp.asarray(piece.token_starts), jnp.asarray(piece.frame_starts))
  known_frames = piece.window_frames * (piece.chunks - 1) // piece.chunks

  def program(params, key, tokens):
    batch, passes = len(tokens), jax.new_ref(jnp.zeros((), jnp.int32))

    def window(k, latents):
      token_start, frame_start = (starts[k] for starts in starts_W)
      of_window = jax.lax.dynamic_slice_in_dim(tokens, token_start, piece.window_tokens, axis=1)

      def velocity(z, delta, angle):
        del angle
        passes[...] += 1
        return guided_velocity(generator.dpd, params, z, delta, of_window, scale)

      shape = (batch, piece.window_frames, size)
      # Other noise in every window; equal noise would repeat the music.
      noise = jax.random.normal(jax.random.fold_in(key, k), shape)
      if len(piece.frame_starts) == 1:
        made = diffusion.sample(velocity, noise, omegas)
      else:
        known = jax.lax.dynamic_slice_in_dim(latents, frame_start, piece.window_frames, axis=1)
        # In the first window nothing is known yet.
        done = jnp.where(k > 0, known_frames, 0)
        mask = jnp.broadcast_to(jnp.arange(piece.window_frames)[None] < done, shape[:2])
        made = diffusion.sample(velocity, noise, omegas, known, mask)
      # As the sampler does: the decoder was trained on latents in [-1, 1].
      made = jnp.clip(made, -1.0, 1.0)
      return jax.lax.dynamic_update_slice_in_dim(latents, made, frame_start, axis=1)

    latents = jnp.zeros((batch, piece.n_frames, size))
    latents = jax.lax.fori_loop(0, len(piece.frame_starts), window, latents)
    return latents, passes[...]

  return program


def audio_program(generator: Generator, piece: PieceLayout) -> Callable[..., Any]:
  """Makes the program of the decoder, which decodes window after window.

  Returns:
    A function (params, latents [B, L, D]) -> (audio float32 [B, T], passes, an int32 scalar).
  """
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
