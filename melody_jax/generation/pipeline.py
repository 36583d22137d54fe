"""From style tokens to a waveform: LM, DPD and decoder of a bundle, as compiled programs.

SPEC section 1. Music of up to one window (10 s) is one program: LM, diffusion, decoder. Longer
music is three: the LM for all tokens, the DPD for a window of which three of four chunks may be
known (SPEC section 6, continuation; one call a chunk), the decoder for overlapping windows.

Every item of a batch has its own seed, and a draw depends on that seed and its place in time
alone: an item's result does not depend on the batch it travels in nor, up to the decoder's
reach before its end, on how long the piece goes on.

Shape letters: B items, T samples, L latent frames, D latent channels, S steps.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import bundle, diffusion, encoders
from melody_jax.errors import UserError
from melody_jax.generation import token_sampler
from melody_jax.models import dpd as dpd_model
from melody_jax.models import lm as lm_model
from melody_jax.models import mulan, quantizer
from melody_jax.models.layers import config_from
from melody_jax.windows import Window, overlapping_windows

SEMANTIC_RATE = 25  # tokens a second; SPEC section 1
CONTEXT_SECONDS = 0.64  # on either side of a window that is decoded in the midst of a piece

Progress = Callable[[str], None] | None


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to sample; see configs/sample.py.

  Attributes:
    steps: denoising steps.
    schedule: of angles, "linear" or "uniform".
    guidance_scale: of the DPD; 1 is none.
    temperature, top_k, top_p: of the LM; None switches a filter off.
    lm_guidance_scale: of the LM; 1 is none.
  """

  steps: int = 10
  schedule: str = "linear"
  guidance_scale: float = 2.5
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  lm_guidance_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Made:
  """What a call gave.

  Attributes:
    audio: float32 [B, T].
    nfe: network passes of LM and DPD (a guided pass is one).
    compile_seconds: spent compiling, or loading compiled programs from the cache.
    generation_seconds: spent computing, style embedding included.
  """

  audio: np.ndarray
  nfe: int
  compile_seconds: float
  generation_seconds: float


def use_compilation_cache() -> None:
  """Keeps compiled programs in $JAX_COMPILATION_CACHE_DIR or the user's cache directory."""
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "melody_jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class Pipeline:
  """A bundle, ready to make music.

  Attributes:
    sample_rate: of the audio, Hz.
    digest: SHA-256 of the bundle's files.
  """

  def __init__(self, directory: str | os.PathLike, generates: bool = True):
    """Reads the bundle; see `load`."""
    self.sample_rate = 24_000
    self.digest = bundle.digest(directory)
    self.codec = encoders.Codec.load(directory)
    self._codec_params = jax.device_put(self.codec.params)
    self._compiled: dict[Any, Any] = {}
    self._compile_seconds = self._run_seconds = 0.0
    if generates:
      self._load_generator(directory)

  @classmethod
  def load(cls, directory: str | os.PathLike, generates: bool = True) -> "Pipeline":
    """From a bundle directory.

    Args:
      directory: as written by melody_jax.export and melody_jax.fit_quantizer.
      generates: False reads the codec alone.

    Raises:
      UserError: if a model is missing, damaged, or does not fit the others.
    """
    return cls(directory, generates)

  def _load_generator(self, directory: str | os.PathLike) -> None:
    style = encoders.StyleEncoder.load(directory, text=False)
    self._mulan_config, self._mulan_params = style.config, style.params
    params, metadata = bundle.load(bundle.path_of(directory, "lm"))
    self._lm = lm_model.SemanticLM(config_from(lm_model.LMConfig, metadata["model_config"]))
    dpd_params, metadata = bundle.load(bundle.path_of(directory, "dpd"))
    self._dpd = dpd_model.DPD(config_from(dpd_model.DPDConfig, metadata["model_config"]))
    self._params = jax.device_put({"lm": params, "dpd": dpd_params, "vae": self.codec.params})
    self._codec_params = self._params["vae"]
    levels = self._mulan_params["rvq"]["codebooks"].shape[0]
    if levels != self._lm.config.style_levels:
      raise UserError(
        f"{directory}: mulan has {levels} style levels, lm {self._lm.config.style_levels};"
        " export both from the same recipe"
      )
    if self._dpd.config.latent_dim != self.codec.config.latent_dim:
      raise UserError(
        f"{directory}: vae has {self.codec.config.latent_dim} latent channels, dpd"
        f" {self._dpd.config.latent_dim}; export both from the same recipe"
      )

  @property
  def window_seconds(self) -> float:
    """Length of the LM's and DPD's window."""
    return self._lm.config.window_tokens / SEMANTIC_RATE

  @property
  def window_frames(self) -> int:
    """L of a window."""
    return round(self.window_seconds * self.sample_rate) // self.codec.config.hop_length

  def _call(self, name: str, function: Callable[..., Any], static: Any, *args: Any) -> Any:
    """Compiles `function` for these shapes unless that was done, runs it; times both apart."""
    began = time.monotonic()
    shapes = jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), args)
    key = (name, static, jax.tree.structure(args), tuple(jax.tree.leaves(shapes)))
    if key not in self._compiled:
      self._compiled[key] = jax.jit(function).lower(*args).compile()
    compiled = time.monotonic()
    result = jax.block_until_ready(self._compiled[key](*args))
    self._compile_seconds += compiled - began
    self._run_seconds += time.monotonic() - compiled
    return result

  def _made(self, audio: np.ndarray, nfe: int) -> Made:
    made = Made(np.asarray(audio), nfe, self._compile_seconds, self._run_seconds)
    self._compile_seconds = self._run_seconds = 0.0
    return made

  def style_of_text(self, prompts: Sequence[str]) -> np.ndarray:
    """Style tokens int32 [B, levels] of prompts, through MuLan's text tower."""
    from melody_jax.text import load_tokenizer

    config = self._mulan_config
    # The text tower's public half is read when first needed: a music prompt does without it.
    self._mulan_params = mulan.with_text_body(self._mulan_params, config)
    ids, mask = load_tokenizer(config.text_length, config.text_init).batch(list(prompts))

    def program(params, ids, mask):
      embedding = mulan.embed_text(params, config, ids, mask)
      return quantizer.rvq_encode(params["rvq"]["codebooks"], embedding)

    text_params = {k: v for k, v in self._mulan_params.items() if not k.startswith("music")}
    return np.asarray(self._call("text", program, None, text_params, ids, mask))

  def style_of_music(self, audio_BT: np.ndarray) -> np.ndarray:
    """Style tokens int32 [B, levels] of clips [B, T]: the mean embedding of their windows."""
    config = self._mulan_config
    windows = np.asarray(mulan.windows_of(jnp.asarray(audio_BT), config.window_samples))

    def embed(params, audio):
      return mulan.embed_music(params, config, audio)

    def tokens(params, embeddings):
      embedding = mulan.l2_normalise(jnp.mean(embeddings, axis=1))
      return quantizer.rvq_encode(params["rvq"]["codebooks"], embedding)

    music = {k: v for k, v in self._mulan_params.items() if not k.startswith("text")}
    # One window a call: a single compiled shape, whatever the length of the clip.
    embedded = [
      [np.asarray(self._call("music", embed, None, music, w[None]))[0] for w in row]
      for row in windows
    ]
    return np.asarray(self._call("style", tokens, None, music, np.asarray(embedded)))

  def generate(
    self, style_tokens: np.ndarray, seeds: Sequence[int], seconds: float,
    settings: Settings, progress: Progress = None,
  ) -> Made:  # fmt: skip
    """Music in the given style.

    Args:
      style_tokens: int32 [B, levels].
      seeds: one an item.
      seconds: length.
      settings: how to sample.
      progress: told what happens, a line at a time; None: silence.

    Raises:
      UserError: for settings out of range.
    """
    say = progress or (lambda message: None)
    inputs = self._inputs(style_tokens, seeds, settings)
    n_samples = round(seconds * self.sample_rate)
    if seconds <= self.window_seconds:
      say("one window: compiling (or loading) the program and generating")
      static = (settings.schedule, settings.steps)
      audio, nfe = self._call("window", self._window_program, static, self._params, inputs)
      return self._made(audio[:, :n_samples], int(nfe) + settings.steps)
    chunk_seconds = self.window_seconds / token_sampler.CHUNKS_PER_WINDOW
    n_chunks = int(np.ceil(round(seconds / chunk_seconds, 6)))
    tokens, nfe = self._tokens(inputs, n_chunks, say)
    latents = self._continued(inputs, tokens, n_chunks, progress)
    say("decoding")
    audio = self._decoded(latents)
    passes = settings.steps * (n_chunks - token_sampler.CHUNKS_PER_WINDOW + 1)
    return self._made(audio[:, :n_samples], nfe + passes)

  def _inputs(self, style_tokens, seeds, settings: Settings) -> dict[str, Any]:
    """Everything that a program takes besides parameters; values may change without compiling."""
    if settings.schedule not in diffusion.SCHEDULES:
      raise UserError(
        f"schedule is {settings.schedule!r}; it must be one of {', '.join(diffusion.SCHEDULES)}"
      )
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    lm_scale = settings.lm_guidance_scale
    return {
      "lm_keys": jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys),
      "noise_keys": jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys),
      "sampler": token_sampler.make_sampler(settings.temperature, settings.top_k, settings.top_p),
      "conditions": token_sampler.Conditions(
        jnp.asarray(style_tokens, jnp.int32), None if lm_scale == 1 else lm_scale
      ),
      "omegas": diffusion.angle_schedule(settings.schedule, settings.steps),
      # None, a different structure, compiles the program without the second row an item.
      "guidance_scale": None if settings.guidance_scale == 1 else settings.guidance_scale,
    }

  def _window_program(self, params, inputs):
    """One window from style tokens to audio [B, T], and the LM's passes."""
    tokens, nfe = token_sampler.generate(
      self._lm, params["lm"], inputs["sampler"], inputs["lm_keys"], inputs["conditions"],
      self._lm.config.window_tokens)  # fmt: skip
    noise = self._noise(inputs["noise_keys"], jnp.arange(token_sampler.CHUNKS_PER_WINDOW))
    latents = self._denoise(params, inputs, tokens, noise)
    return encoders.decode_latents(self.codec.config, params["vae"], latents), nfe

  def _chunk_edges(self, n_chunks: int, length: int) -> list[int]:
    """Where chunks begin in a sequence with `length` positions a window, [n_chunks + 1]."""
    return [k * length // token_sampler.CHUNKS_PER_WINDOW for k in range(n_chunks + 1)]

  def _noise(self, keys_B, chunks: jax.Array) -> jax.Array:
    """N(0, I) for the window made of the four chunks of these indices: [B, L, D]."""
    edges = self._chunk_edges(token_sampler.CHUNKS_PER_WINDOW, self.window_frames)
    longest = -(-self.window_frames // token_sampler.CHUNKS_PER_WINDOW)

    def of_item(key):
      draws = [
        jax.random.normal(
          jax.random.fold_in(key, chunks[i]), (longest, self._dpd.config.latent_dim)
        )
        for i in range(token_sampler.CHUNKS_PER_WINDOW)
      ]
      return jnp.concatenate([d[: edges[i + 1] - edges[i]] for i, d in enumerate(draws)])

    return jax.vmap(of_item)(keys_B)

  def _denoise(self, params, inputs, tokens, noise, known=None, mask=None) -> jax.Array:
    """Clean latents [B, L, D] of one window under its tokens, in [-1, 1] as in training."""
    scale, rows = inputs["guidance_scale"], len(noise)

    def velocity(z, delta):
      if scale is None:
        return self._dpd.apply({"params": params["dpd"]}, z, delta, tokens)
      # Both halves of guidance in one pass: half the program to compile, one read of the weights.
      z, delta, twice = (jnp.concatenate([x, x]) for x in (z, delta, tokens))
      conditional = jnp.arange(2 * rows) < rows
      v = self._dpd.apply({"params": params["dpd"]}, z, delta, twice, conditional)
      return diffusion.guide(*jnp.split(v, 2), scale)

    return jnp.clip(diffusion.sample(velocity, noise, inputs["omegas"], known, mask), -1.0, 1.0)

  def _tokens(self, inputs, n_chunks: int, say) -> tuple[np.ndarray, int]:
    """Semantic tokens of a long piece, and the LM's passes."""
    window = self._lm.config.window_tokens
    first = n_chunks - token_sampler.CHUNKS_PER_WINDOW
    needed = self._chunk_edges(first, window)[-1] + window
    # Whole windows: few distinct programs. What is too much is cut; it changes nothing before it.
    n_tokens = -(-needed // window) * window
    say(f"language model: {n_tokens} tokens")

    def program(params, inputs):
      return token_sampler.generate(
        self._lm, params, inputs["sampler"], inputs["lm_keys"], inputs["conditions"], n_tokens
      )

    tokens, nfe = self._call("tokens", program, n_tokens, self._params["lm"], inputs)
    return np.asarray(tokens), int(nfe)

  def _continued(self, inputs, tokens: np.ndarray, n_chunks: int, progress: Progress) -> np.ndarray:
    """Latents of a long piece: a window, then chunk by chunk with the last three known."""
    from tqdm import tqdm

    length, window = self.window_frames, self._lm.config.window_tokens
    frame_edges = self._chunk_edges(n_chunks, length)
    token_edges = self._chunk_edges(n_chunks, window)
    latents = np.zeros((len(tokens), frame_edges[-1], self._dpd.config.latent_dim), np.float32)

    def program(params, inputs, tokens, first_chunk, known, mask):
      chunks = first_chunk + jnp.arange(token_sampler.CHUNKS_PER_WINDOW)
      noise = self._noise(inputs["noise_keys"], chunks)
      return self._denoise(params, inputs, tokens, noise, known, mask)

    n_windows = n_chunks - token_sampler.CHUNKS_PER_WINDOW + 1
    for k in tqdm(range(n_windows), "diffusion", unit="window", disable=progress is None):
      start, end = frame_edges[k], frame_edges[k] + length
      done = frame_edges[k + token_sampler.CHUNKS_PER_WINDOW - 1] if k else 0
      mask = np.broadcast_to(np.arange(start, end) < done, (len(tokens), length))
      first_token = token_edges[k]
      args = (tokens[:, first_token : first_token + window], k, latents[:, start:end], mask)
      made = self._call("diffusion", program, None, self._params, inputs, *args)
      latents[:, start:end] = np.asarray(made)
    return latents

  def _overlapped(self, name, function, x: np.ndarray, scale_in: int, scale_out: int) -> np.ndarray:
    """Applies `function` to overlapping windows of `x` and joins what lies inside them."""
    length = round(10 * self.sample_rate) // self.codec.config.hop_length
    n_frames = -(-x.shape[1] // scale_in)
    short = max(n_frames, length) * scale_in - x.shape[1]
    x = np.pad(x, ((0, 0), (0, short)) + ((0, 0),) * (x.ndim - 2))
    context = round(CONTEXT_SECONDS * self.sample_rate) // self.codec.config.hop_length
    pieces = []
    for w in overlapping_windows(max(n_frames, length), length, context):
      y = self._call(name, function, None, self._codec_params, _window(x, w, length, scale_in))
      y = np.asarray(y)
      pieces.append(y[:, (w.begin - w.start) * scale_out : (w.end - w.start) * scale_out])
    return np.concatenate(pieces, axis=1)[:, : n_frames * scale_out]

  def _decoded(self, latents_BLD: np.ndarray) -> np.ndarray:
    def program(params, latents):
      return encoders.decode_latents(self.codec.config, params, latents)

    return self._overlapped("decode", program, latents_BLD, 1, self.codec.config.hop_length)

  def reconstruct(self, audio_T: np.ndarray, progress: Progress = None) -> Made:
    """A clip [T] through encoder and decoder, at the latents that the DPD is trained on."""
    say = progress or (lambda message: None)

    def program(params, audio):
      return encoders.encode_latents(self.codec.config, params, audio)

    say("encoding")
    latents = self._overlapped("encode", program, audio_T[None], self.codec.config.hop_length, 1)
    say("decoding")
    return self._made(self._decoded(latents)[:, : len(audio_T)], 0)


def _window(x: np.ndarray, window: Window, length: int, scale: int) -> np.ndarray:
  return x[:, window.start * scale : (window.start + length) * scale]
