"""The stages of sampling as separate programs: tokens, latents, audio.

They use the same functions as the sampler (`token_sampler.generate`, `diffusion.sample`,
`encoders.codec.decode_latents`) and the same windows. Music of up to one window (10 s) is made in
that one window. For longer music the window moves by a quarter, the DPD already knows three
quarters of it (docs/spec.md, section 6), and the decoder's windows overlap. Each stage counts the
passes of its network while it runs.

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

SEMANTIC_RATE = 25  # tokens per second
CONTEXT_SECONDS = 0.64  # on each side of a window that is decoded in the middle of a piece
QUARTERS = token_sampler.CHUNKS_PER_WINDOW


@dataclasses.dataclass(frozen=True)
class Piece:
  """A piece of music and the places of its windows.

  Attributes:
    n_tokens: Number N of semantic tokens.
    n_frames: Number L of latent frames.
    window_tokens: Semantic tokens in a window, or in the piece where that is shorter.
    window_frames: Latent frames in a window, or in the piece where that is shorter.
    token_starts: First semantic token of each window of the DPD.
    frame_starts: First latent frame of each window of the DPD.
  """

  n_tokens: int
  n_frames: int
  window_tokens: int
  window_frames: int
  token_starts: tuple[int, ...]
  frame_starts: tuple[int, ...]

  @classmethod
  def of(cls, generator: Generator, seconds: float) -> "Piece":
    """The piece of this many seconds, rounded up to quarters of a window past the first window."""
    window_tokens = generator.lm.config.window_tokens
    # Sizes follow the generator: presets differ in latent rate and window.
    window_seconds = window_tokens / SEMANTIC_RATE
    window_frames = round(window_seconds * SAMPLE_RATE) // generator.vae.hop_length
    if seconds <= window_seconds:
      n_tokens = max(round(seconds * SEMANTIC_RATE), 1)
      n_frames = max(round(seconds * SAMPLE_RATE) // generator.vae.hop_length, 1)
      return cls(n_tokens, n_frames, n_tokens, n_frames, (0,), (0,))
    n_chunks = -(-round(seconds * SEMANTIC_RATE) * QUARTERS // window_tokens)
    slides = range(n_chunks - QUARTERS + 1)
    token_starts = tuple(k * window_tokens // QUARTERS for k in slides)
    frame_starts = tuple(k * window_frames // QUARTERS for k in slides)
    return cls(
      token_starts[-1] + window_tokens, frame_starts[-1] + window_frames, window_tokens,
      window_frames, token_starts, frame_starts,
    )  # fmt: skip

  @property
  def decoder_windows(self) -> list[Window]:
    """Windows of the decoder: which latent frames each call reads and which it keeps."""
    frames_per_second = self.window_frames * SEMANTIC_RATE / self.window_tokens
    context = round(CONTEXT_SECONDS * frames_per_second)
    if self.n_frames == self.window_frames:
      return [Window(0, 0, self.n_frames)]
    return overlapping_windows(self.n_frames, self.window_frames, context)


def tokens_program(generator: Generator, piece: Piece) -> Callable[..., Any]:
  """Makes the program of the LM.

  Returns:
    A function (params, keys [B], style tokens [B, levels]) -> (tokens int32 [B, N], passes, an
    int32 scalar).
  """

  def program(params, keys, style_tokens):
    conditions = token_sampler.Conditions(style_tokens)
    sampler = token_sampler.make_sampler()
    return token_sampler.generate(generator.lm, params, sampler, keys, conditions, piece.n_tokens)

  return program


def guided_velocity(model: DPD, params: Any, z, delta, tokens, scale: float) -> jax.Array:
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
  conditional = jnp.arange(2 * len(z)) < len(z)
  z, delta, tokens = (jnp.concatenate([x, x]) for x in (z, delta, tokens))
  v = model.apply({"params": params}, z, delta, tokens, conditional)
  return diffusion.guide(*jnp.split(v, 2), scale)


def latents_program(
  generator: Generator, piece: Piece, steps: int, scale: float, schedule: str = "linear"
) -> Callable[..., Any]:
  """Makes the program of the DPD.

  The network pass itself raises the count, so all passes are counted, whatever loop makes them.

  Returns:
    A function (params, key, tokens [B, N]) -> (latents float32 [B, L, D], passes, an int32 scalar).
  """
  omegas = diffusion.angle_schedule(schedule, steps)
  size = generator.dpd.config.latent_dim
  # Starts are data, so that one loop body serves all windows.
  starts_W = (jnp.asarray(piece.token_starts), jnp.asarray(piece.frame_starts))
  known_frames = piece.window_frames * (QUARTERS - 1) // QUARTERS

  def program(params, key, tokens):
    batch, passes = len(tokens), jax.new_ref(jnp.zeros((), jnp.int32))

    def window(k, latents):
      token_start, frame_start = (starts[k] for starts in starts_W)
      of_window = jax.lax.dynamic_slice_in_dim(tokens, token_start, piece.window_tokens, axis=1)

      def velocity(z, delta):
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


def audio_program(generator: Generator, piece: Piece) -> Callable[..., Any]:
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
      return decode_latents(generator.vae, params, part)

    audio_WxBxT = jax.lax.map(decode, jnp.asarray([w.start for w in windows]))
    kept = [
      audio[:, (w.begin - w.start) * hop : (w.end - w.start) * hop]
      for audio, w in zip(audio_WxBxT, windows, strict=True)
    ]
    return jnp.concatenate(kept, axis=1), passes[...]

  return program
