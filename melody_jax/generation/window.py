"""The one compiled program: from style tokens to a waveform, for one window of music.

LM, diffusion and decoder of a window (10 s) run in one XLA program; nothing returns to the host in
between. Text, continuation, inpainting, variation and streaming differ in its arguments alone:
which semantic tokens and which latents are known, and from how much noise a frame starts. Longer
music is the same program again, a chunk further on, with all but the last chunk known
(docs/spec.md, section 6).

The random draws of an item depend on its seed and on their place in the piece, on nothing else: a
result does not depend on the batch that it travels in.

Shape letters: B items, W tokens and L frames of a window, D latent channels, C chunks
of a window, T most denoising steps.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import diffusion
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.encoders.codec import decode_latents
from melody_jax.errors import UserError
from melody_jax.generation import token_sampler
from melody_jax.generation.options import MAX_STEPS
from melody_jax.generation.request import Settings
from melody_jax.generation.schedules import angle_schedule
from melody_jax.models import lm as lm_model
from melody_jax.models import vae as vae_model
from melody_jax.models.denoiser import LatentDenoiser

SEMANTIC_RATE = 25  # tokens a second (docs/spec.md, section 1)


@dataclasses.dataclass(frozen=True)
class Networks:
  """The three models of the program, without their parameters (static).

  Attributes:
    lm: Module of the semantic LM.
    dpd: Module of the denoiser: the dual-path diffusion model, or what stands in its place.
    codec: Sizes of the VAE.
  """

  lm: lm_model.SemanticLM
  dpd: LatentDenoiser
  codec: vae_model.VAEConfig

  @property
  def tokens(self) -> int:
    """W, semantic tokens of a window."""
    return self.lm.config.window_tokens

  @property
  def seconds(self) -> float:
    """Length of a window in seconds."""
    return self.tokens / SEMANTIC_RATE

  @property
  def frames(self) -> int:
    """L, latent frames of a window."""
    return round(self.seconds * SAMPLE_RATE) // self.codec.hop_length

  @property
  def chunks(self) -> int:
    """C, chunks of a window, as in the DPD's training; a window moves by one of them."""
    return self.dpd.config.chunks

  @property
  def chunk_frames(self) -> int:
    """Frames of a chunk, by which windows move."""
    return self.frames // self.chunks

  def check_chunks(self) -> None:
    """Refuses a window that is not a whole number of chunks, by which it could not move on.

    Raises:
      UserError: naming both numbers.
    """
    # A window moves by a chunk, and must end up on a frame.
    if self.frames % self.chunks:
      raise UserError(
        f"a window of {self.frames} frames is not {self.chunks} equal chunks; choose chunks of the"
        " DPD that divide it"
      )

  def token_of(self, frame: int) -> int:
    """The semantic token that a frame lies in."""
    return frame * self.tokens // self.frames

  def in_dtype(self, dtype: str) -> "Networks":
    """The same models, computing in `dtype`."""
    return Networks(
      # Parameters are the same; what changes is the dtype that each layer casts to.
      self.lm.clone(config=dataclasses.replace(self.lm.config, dtype=dtype)),
      self.dpd.clone(config=dataclasses.replace(self.dpd.config, dtype=dtype)),
      dataclasses.replace(self.codec, dtype=dtype),
    )


@flax.struct.dataclass
class Window:
  """What is known of a batch of windows, and where in their pieces they lie.

  Attributes:
    seeds: Seed of each item, uint32 [B].
    start_frame: First frame of the window in the piece, int32 [B].
    first_token: First semantic token of the window in the piece, int32 [B].
    style_tokens: Style of each chunk, int32 [B, C, levels].
    negative_style: Style to avoid, int32 [B, levels]; "no style" where nothing is to be avoided.
    reads: Where the LM draws (`plan_reads`).
    tokens: Semantic tokens, int32 [B, W]; anything where they are not known.
    tokens_known: Which tokens stay as they are, bool [B, W].
    latents: Latents in [-1, 1], float32 [B, L, D]; anything where they are not known.
    known: Share of each frame that is known, float32 [B, L]: 1 keeps it, 0 makes it from pure
      noise, in between it starts from its latent with noise of the angle (1 - known) pi/2.
    end_frame: End of a changed piece, int32 [B]. Frames from here on are decoded as `latents` has
      them, whatever was made of them: the decoder then hears the silence that the codec hears.
  """

  seeds: Any
  start_frame: Any
  first_token: Any
  style_tokens: Any
  negative_style: Any
  reads: token_sampler.Reads
  tokens: Any
  tokens_known: Any
  latents: Any
  known: Any
  end_frame: Any


@flax.struct.dataclass
class Controls:
  """`Settings` as arguments of the program.

  Numbers may change without a new compilation. None switches a part off and leaves it out of the
  program, so a change between None and a number compiles anew.

  Attributes:
    sampler: Rule that draws tokens.
    lm_guidance_scale: Guidance of the LM, float32 scalar.
    guard: Guard against repetition.
    omegas: Angle steps, then zeros, float32 [T].
    n_steps: Number of steps taken, int32 scalar.
    second_order: Order of the solver, float32 scalar: 1 for the second, 0 for the first.
    guidance_scale: Guidance of the DPD, float32 scalar.
    guidance_angles: Angles between which guidance acts, float32 [2]; None: everywhere.
    guidance_rescale: Share of rescaling in [0, 1], float32 scalar.
  """

  sampler: token_sampler.TokenSampler
  lm_guidance_scale: Any
  guard: token_sampler.RepetitionGuard | None
  omegas: Any
  n_steps: Any
  second_order: Any
  guidance_scale: Any
  guidance_angles: Any
  guidance_rescale: Any


@flax.struct.dataclass
class Made:
  """What the program gives.

  Attributes:
    tokens: Semantic tokens, int32 [B, W].
    latents: Clean latents in [-1, 1], float32 [B, L, D].
    audio: Waveform at 24 kHz, float32 [B, L hop].
    nfe: Network passes of LM and DPD, int32 scalar; a guided pass counts as one.
  """

  tokens: jax.Array
  latents: jax.Array
  audio: jax.Array
  nfe: jax.Array


def controls(settings: Settings) -> Controls:
  """The program's arguments for these settings."""
  # Always MAX_STEPS long, so that another number of steps is another number and no other program.
  omegas = np.zeros(MAX_STEPS, np.float32)
  omegas[: settings.steps] = angle_schedule(settings.schedule, settings.steps)
  guided, interval = settings.guidance_scale != 1, settings.guidance_interval
  # A scale of 1 adds nothing, but as a number it would double the network's rows all the same.
  guard = None
  if settings.repetition_penalty:
    guard = token_sampler.RepetitionGuard(
      np.float32(settings.repetition_penalty), np.int32(settings.repetition_span)
    )
  return Controls(
    sampler=token_sampler.make_token_sampler(settings.temperature, settings.top_k, settings.top_p),
    # None leaves the second half of the rows out of the program: half the work of every token.
    lm_guidance_scale=None
    if settings.lm_guidance_scale == 1
    else np.float32(settings.lm_guidance_scale),
    guard=guard,
    omegas=omegas,
    n_steps=np.int32(settings.steps),
    second_order=np.float32(settings.solver == "ab2"),
    guidance_scale=np.float32(settings.guidance_scale) if guided else None,
    guidance_angles=np.float32(np.multiply(interval, diffusion.HALF_PI))
    if guided and tuple(interval) != (0.0, 1.0)
    else None,
    guidance_rescale=np.float32(settings.guidance_rescale) if guided else None,
  )


def plan_reads(tokens_known_BW: np.ndarray, style_BxCxN: np.ndarray) -> token_sampler.Reads:
  """The fewest pieces in which the LM can draw the unknown tokens of a window, on the host.

  A piece begins at the first unknown token of a chunk in any item and goes on over the next
  chunks for as long as all items keep their style.

  Args:
    tokens_known_BW: Which tokens are known, bool [B, W].
    style_BxCxN: Style tokens of each chunk, int32 [B, C, levels].
  """
  # Every piece begins with one pass over all that lies before it: the fewer the better.
  chunks = style_BxCxN.shape[1]
  edges = token_sampler.chunk_edges(tokens_known_BW.shape[1], chunks, chunks)
  pieces: list[list[int]] = []
  for c in range(chunks):
    wanted = np.flatnonzero(~tokens_known_BW[:, edges[c] : edges[c + 1]].all(axis=0))
    if not len(wanted):
      continue
    begin, end = edges[c] + int(wanted[0]), edges[c] + int(wanted[-1]) + 1
    same = pieces and np.array_equal(style_BxCxN[:, c], style_BxCxN[:, pieces[-1][2]])
    if same and pieces[-1][1] == begin:
      pieces[-1][1] = end
    else:
      pieces.append([begin, end, c])
  # As many rows as there can be pieces: one program, however many there are.
  padded = np.zeros((chunks, 3), np.int32)
  padded[: len(pieces)] = np.reshape(pieces, (-1, 3))
  return token_sampler.Reads(
    begin=padded[:, 0], end=padded[:, 1], style=padded[:, 2], count=np.int32(len(pieces))
  )


def run(networks: Networks, params: dict[str, Any], window: Window, how: Controls) -> Made:
  """The program; pure, to be compiled with `networks` fixed.

  Args:
    networks: The models (static).
    params: Their parameters, {"lm", "dpd", "vae"}.
    window: What is known of B windows.
    how: The settings.

  Returns:
    Tokens [B, W], latents [B, L, D], audio [B, L hop] and the passes taken.
  """
  # The LM draws with fold 0 of an item's key, the noise with fold 1: neither disturbs the other.
  keys_B = jax.vmap(jax.random.key)(window.seeds)
  tokens, lm_passes = token_sampler.fill(
    networks.lm,
    params["lm"],
    how.sampler,
    jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys_B),
    token_sampler.Conditions(
      window.style_tokens, how.lm_guidance_scale, window.negative_style, how.guard
    ),
    window.reads,
    window.tokens,
    window.tokens_known,
    window.first_token,
  )
  noise_keys_B = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys_B)
  noise = _noise(networks, noise_keys_B, window.start_frame)
  limit = jnp.reshape(params["vae"]["latent_scale"].get("gain_D", 1.0), (1, 1, -1))
  latents, dpd_passes = _denoise(networks, params["dpd"], how, tokens, noise, window, limit)
  # The decoder reads beyond the end of a changed piece and must hear there what the codec heard:
  # silence, not what was made of it.
  frames_BL = window.start_frame[:, None] + jnp.arange(networks.frames)[None]
  heard = jnp.where((frames_BL < window.end_frame[:, None])[..., None], latents, window.latents)
  audio = decode_latents(networks.codec, params["vae"], heard, window.start_frame)
  return Made(tokens, latents, audio.astype(jnp.float32), lm_passes + dpd_passes)


def _noise(networks: Networks, keys_B: jax.Array, start_frame_B: jax.Array) -> jax.Array:
  """Noise N(0, I) of the windows' frames [B, L, D]; a frame's draw depends on its place alone.

  Drawn chunk by chunk of the piece, so that a window that begins elsewhere sees the same noise.
  """
  length, chunk = networks.frames, networks.chunk_frames

  def item_noise(key, start):
    # A window that begins inside a chunk reaches into one more.
    # Numbers of chunks in the piece, not in the window: they name the draws.
    indices = start // chunk + jnp.arange(networks.chunks + 1)
    draw = jax.vmap(
      lambda index: jax.random.normal(
        jax.random.fold_in(key, index), (chunk, networks.dpd.config.latent_dim)
      )
    )
    noise = draw(indices).reshape(-1, networks.dpd.config.latent_dim)
    # Starts are data: a window anywhere in the piece is the same program.
    return jax.lax.dynamic_slice_in_dim(noise, start % chunk, length)

  return jax.vmap(item_noise)(keys_B, start_frame_B)


def _denoise(networks, params, how: Controls, tokens, noise, window: Window, limit):
  """Clean latents [B, L, D] under the tokens, within +-limit as in training; the passes taken."""

  def apply(z, delta, tokens):
    return networks.dpd.apply({"params": params}, z, delta, tokens)

  def guided(z, delta):
    # Both halves in one pass: half the program to compile, one read of the weights.
    halves = networks.dpd.apply({"params": params}, z, delta, tokens, method="with_and_without")
    return diffusion.guide(*halves, how.guidance_scale, how.guidance_rescale)

  def velocity(z, delta, angle):
    if how.guidance_scale is None:
      return apply(z, delta, tokens)
    if how.guidance_angles is None:
      return guided(z, delta)
    low, high = how.guidance_angles
    # Outside the interval one network row an item is enough, and the other half is not computed.
    inside = (low <= angle) & (angle <= high)
    return jax.lax.cond(inside, guided, lambda z, delta: apply(z, delta, tokens), z, delta)

  # Frames that are known take no part in the steps, but the network hears them at angle 0.
  share_BL = 1.0 - window.known
  # Where all is known there is nothing to do but to decode.
  n_steps = jnp.where(jnp.any(share_BL > 0), how.n_steps, 0)
  z = diffusion.sample(
    velocity, noise, how.omegas, window.latents, window.known, n_steps, how.second_order
  )
  # Clipped as in training. What is known is returned as it came, not as the steps rounded it.
  return jnp.where((share_BL > 0)[..., None], jnp.clip(z, -limit, limit), window.latents), n_steps
