"""`Melody`: a bundle of trained models, ready to make music.

    melody = Melody.load("checkpoints/nano")
    music = melody.generate(Request(prompt="slow bossa nova", seconds=10, seed=1))
    music.audio                                             # float32 [samples], 24 kHz

Every mode (`request.Request`) is the one program of `window` with other arguments. A list of
requests is a batch, whatever their modes, styles and lengths; an item's result does not depend on
the others.

Shape letters: B items, T samples, N latent frames, D latent channels.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import os
import time
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import bundle, encoders
from melody_jax.audio import SAMPLE_RATE
from melody_jax.errors import UserError
from melody_jax.generation import piece as piece_plan
from melody_jax.generation import window as window_program
from melody_jax.generation.programs import Programs
from melody_jax.generation.request import Prompt, Request, Settings, mixture
from melody_jax.generation.stream import Stream
from melody_jax.generation.style import Styles
from melody_jax.generation.window import Networks
from melody_jax.models import dpd as dpd_model
from melody_jax.models import lm as lm_model
from melody_jax.windows import overlapping_windows

CONTEXT_SECONDS = 0.64  # on either side of a window that the codec reads in the midst of a piece
CODEC_SECONDS = 10.0  # of such a window

DEFAULTS = Settings()

Progress = Callable[[str], None] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Music:
  """One result.

  Attributes:
    audio: float32 [T].
    sample_rate: of it, Hz.
    nfe: network passes of LM and DPD in the call that made it; a guided pass is one, and the items
      of a batch share theirs.
    compile_seconds: of that call, spent compiling, or loading compiled programs from the cache.
    generation_seconds: of that call, everything else.
  """

  audio: np.ndarray
  sample_rate: int
  nfe: int
  compile_seconds: float
  generation_seconds: float


class Melody:
  """Models of a bundle as one sampler.

  Attributes:
    sample_rate: of all audio, Hz.
    digest: SHA-256 of the bundle's files.
    codec: the VAE.
    networks: models of the compiled program; None where only the codec was read.
  """

  def __init__(self, directory: str | os.PathLike, generates: bool = True):
    """Reads the bundle; see `load`."""
    self.sample_rate = SAMPLE_RATE
    self.digest = bundle.digest(directory)
    self.programs = Programs()
    self.codec = encoders.Codec.load(directory)
    self._directory = directory
    self._params: dict[str, Any] = {"float32": {"vae": jax.device_put(self.codec.params)}}
    self.networks: Networks | None = None
    if generates:
      self._load_generator()

  @classmethod
  def load(cls, directory: str | os.PathLike, generates: bool = True) -> "Melody":
    """From a bundle directory.

    Args:
      directory: as written by melody_jax.export and melody_jax.fit_quantizer.
      generates: False reads the codec alone, for `reconstruct`.

    Raises:
      UserError: if a model is missing, damaged, or does not fit the others.
    """
    return cls(directory, generates)

  def _load_generator(self) -> None:
    self.styles = Styles(self._directory, self.programs)
    lm_config, lm_params = bundle.load_model(self._directory, "lm", lm_model.LMConfig)
    dpd_config, dpd_params = bundle.load_model(self._directory, "dpd", dpd_model.DPDConfig)
    lm, dpd = lm_model.SemanticLM(lm_config), dpd_model.DPD(dpd_config)
    if self.styles.levels != lm.config.style_levels:
      raise UserError(
        f"{self._directory}: mulan has {self.styles.levels} style levels, lm"
        f" {lm.config.style_levels}; export both from the same recipe"
      )
    if dpd.config.latent_dim != self.codec.config.latent_dim:
      raise UserError(
        f"{self._directory}: vae has {self.codec.config.latent_dim} latent channels, dpd"
        f" {dpd.config.latent_dim}; export both from the same recipe"
      )
    self.networks = Networks(lm, dpd, self.codec.config)
    if self.networks.frames % window_program.CHUNKS_PER_WINDOW:
      raise UserError(
        f"{self._directory}: a window of {self.networks.frames} frames has no quarters; choose a"
        " hop and a window of the LM that divide"
      )
    self._params["float32"] |= jax.device_put({"lm": lm_params, "dpd": dpd_params})

  @overload
  def generate(
    self, requests: Request, settings: Settings = ..., progress: Progress = ...
  ) -> Music: ...
  @overload
  def generate(
    self, requests: Sequence[Request], settings: Settings = ..., progress: Progress = ...
  ) -> list[Music]: ...
  def generate(self, requests, settings=DEFAULTS, progress=None):
    """Makes one piece of music, or a batch of them.

    Args:
      requests: what is asked for, one or several.
      settings: how to sample.
      progress: told what happens, a line at a time; None: silence.

    Returns:
      a `Music` for one request, a list of them for several.

    Raises:
      UserError: for bundles without a generator, prompts that cancel out, too little memory.
    """
    if isinstance(requests, Request):
      return self.generate([requests], settings, progress)[0]
    say = progress or (lambda message: None)
    began, compiled = time.monotonic(), self.programs.compile_seconds
    pieces = [self._plan(request, settings, say) for request in requests]
    n_windows = max(len(piece.starts) for piece in pieces)
    say(f"{n_windows} window{'s' * (n_windows > 1)}: compiling (or loading) and generating")
    nfe = 0
    for i in _progress_bar(range(n_windows), progress if n_windows > 1 else None):
      inputs = piece_plan.stack([piece.window(self._generator, i) for piece in pieces])
      made = self.run(inputs, settings)
      tokens, latents = np.asarray(made.tokens), np.asarray(made.latents)
      for piece, of_tokens, of_latents in zip(pieces, tokens, latents, strict=True):
        piece.take(self._generator, i, of_tokens, of_latents)
      nfe += int(made.nfe)
    waves = list(np.asarray(made.audio))
    for b, piece in enumerate(pieces):
      if len(piece.latents) > self._generator.frames:
        # As the codec has it where a changed piece ends.
        waves[b] = self._decode(piece.latents[: piece.end_frame])
    compile_seconds = self.programs.compile_seconds - compiled
    seconds = time.monotonic() - began - compile_seconds
    return [
      Music(wave[: request.n_samples], self.sample_rate, nfe, compile_seconds, seconds)
      for wave, request in zip(waves, requests, strict=True)
    ]

  def stream(
    self,
    requests: Request | Sequence[Request],
    settings: Settings = DEFAULTS,
    say: Progress = None,
  ) -> Stream:
    """Music without an end, in chunks of a quarter window (2.5 s); see `stream.Stream`.

    Args:
      requests: what is asked for, one or several; `seconds` is not used. With `audio` the stream
        goes on right after it.
      settings: how to sample; fewer steps make chunks sooner.
      say: told what happens, a line at a time.

    Raises:
      UserError: for requests that change existing audio, and as `generate`.
    """
    listed = [requests] if isinstance(requests, Request) else list(requests)
    for request in listed:
      if request.mode not in ("generate", "continue"):
        raise UserError(f"a stream goes on without an end: it cannot {request.mode} audio")
    pieces = [self._plan(request, settings, say or (lambda message: None)) for request in listed]
    return Stream.begin(self, pieces, listed, settings, isinstance(requests, Request))

  def resume(self, path: str | os.PathLike) -> Stream:
    """The stream that `Stream.save` wrote, with the same music to come.

    Raises:
      UserError: for a file that is missing, damaged or of another bundle.
    """
    return Stream.restore(self, path)

  def reconstruct(self, audio_T: np.ndarray, progress: Progress = None) -> Music:
    """A clip [T] through encoder and decoder, at the latents that the DPD is trained on."""
    say = progress or (lambda message: None)
    began, compiled = time.monotonic(), self.programs.compile_seconds
    say("encoding")
    latents = self._encode(audio_T)
    say("decoding")
    audio = self._decode(latents)[: len(audio_T)]
    compile_seconds = self.programs.compile_seconds - compiled
    seconds = time.monotonic() - began - compile_seconds
    return Music(audio, self.sample_rate, 0, compile_seconds, seconds)

  def run(self, inputs: window_program.Window, settings: Settings) -> window_program.Made:
    """One call of the compiled program on a batch of windows."""
    networks = self._generator.in_dtype(settings.dtype)
    program = functools.partial(window_program.run, networks)
    params, controls = self.params_in(settings.dtype), window_program.controls(settings)
    name = f"window:{settings.dtype}"
    return self.programs.call(name, program, params, inputs, controls, batch=len(inputs.seeds))

  @property
  def _generator(self) -> Networks:
    if self.networks is None:
      raise UserError(f"{self._directory} was loaded for its codec alone")
    return self.networks

  def _plan(self, request: Request, settings: Settings, say) -> piece_plan.Piece:
    networks = self._generator
    if request.negative and settings.lm_guidance_scale == 1:
      raise UserError(
        "a negative prompt works through guidance of the LM: set lm_guidance_scale above 1, e.g. 2"
      )
    # Music that goes on or is changed keeps its own style unless another is asked for.
    style = request.prompt
    if not style and not request.timeline:
      style = Prompt(audio=request.audio)
    track = self.styles.track(style, request.timeline)
    negative = np.full(networks.lm.config.style_levels, networks.lm.config.null_style, np.int32)
    if request.negative:
      negative = self.styles.tokens(self.styles.embed(mixture(request.negative)))
    steering = piece_plan.Steering(self.styles, track, negative)
    if request.audio is None:
      return piece_plan.plan(networks, request, steering, None, None)
    say("encoding the audio")
    latents, tokens = self._encode(request.audio), self._semantic_tokens(request.audio)
    return piece_plan.plan(networks, request, steering, latents, tokens)

  def params_in(self, dtype: str) -> Any:
    """The program's parameters; matrices, which networks cast anyway, are kept in `dtype`."""
    if dtype not in self._params:

      def cast(path, x):
        return jnp.asarray(x, dtype) if path[-1].key in ("kernel", "embedding") else x

      self._params[dtype] = jax.tree_util.tree_map_with_path(cast, self._params["float32"])
    return self._params[dtype]

  @functools.cached_property
  def _tokenizer(self) -> encoders.SemanticTokenizer:
    return encoders.SemanticTokenizer.load(self._directory)

  def _semantic_tokens(self, audio_T: np.ndarray) -> np.ndarray:
    """int32 [M] of a clip."""
    windows = len(audio_T) // round(CODEC_SECONDS * self.sample_rate)
    return self.programs.first_counts_as_compiling(
      ("semantic", windows), lambda: self._tokenizer.encode(audio_T)
    )

  def _encode(self, audio_T: np.ndarray) -> np.ndarray:
    """Latents [N, D] of a clip and of the silence that fills its last frame, or a window."""

    def program(params, audio):
      return encoders.encode_latents(self.codec.config, params, audio)

    return self._overlapped("encode", program, audio_T, self.codec.config.hop_length, 1)

  def _decode(self, latents_ND: np.ndarray) -> np.ndarray:
    """Audio [N hop] of latents."""

    def program(params, latents):
      return encoders.decode_latents(self.codec.config, params, latents)

    return self._overlapped("decode", program, latents_ND, 1, self.codec.config.hop_length)

  def _overlapped(self, name, function, x: np.ndarray, scale_in: int, scale_out: int) -> np.ndarray:
    """Applies `function` to overlapping windows of `x` and joins what lies inside them."""
    hop = self.codec.config.hop_length
    length = round(CODEC_SECONDS * self.sample_rate) // hop
    context = round(CONTEXT_SECONDS * self.sample_rate) // hop
    n_frames = max(-(-len(x) // scale_in), length)
    x = np.pad(x, ((0, n_frames * scale_in - len(x)),) + ((0, 0),) * (x.ndim - 1))
    pieces = []
    for w in overlapping_windows(n_frames, length, context):
      read = x[None, w.start * scale_in : (w.start + length) * scale_in]
      y = self.programs.call(name, function, self._params["float32"]["vae"], read)
      pieces.append(
        np.asarray(y)[0, (w.begin - w.start) * scale_out : (w.end - w.start) * scale_out]
      )
    return np.concatenate(pieces)


def _progress_bar(windows: Iterable[int], progress: Progress) -> Iterable[int]:
  from tqdm import tqdm

  return tqdm(windows, "generating", unit="window", disable=progress is None)
