"""`Engine`: the models of a bundle and the programs that they run in.

What `melody.Melody` and `stream.Stream` both stand on: it turns a request into a piece with windows
still to be made, and runs the one program of `window` on a batch of them.

Shape letters: B items, T samples, N latent frames, D latent channels, M semantic tokens.
"""

from collections.abc import Sequence
import functools
import os
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import bundle
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.denoisers import choice
from melody_jax.encoders.codec import Codec, decode_latents, encode_latents
from melody_jax.encoders.semantic import SemanticTokenizer
from melody_jax.encoders.windows import map_windows
from melody_jax.errors import UserError
from melody_jax.generation import piece as piece_plan
from melody_jax.generation import window as window_program
from melody_jax.generation.programs import Programs
from melody_jax.generation.request import Prompt, Request, Settings, mixture
from melody_jax.generation.style import Styles
from melody_jax.generation.window import Networks
from melody_jax.models import lm as lm_model
from melody_jax.models.vae import decoder_reach
from melody_jax.places.bundles import locate
from melody_jax.progress import Progress, silent

# The codec reads long audio in windows of this length, so that one program serves all lengths.
CODEC_SECONDS = 10.0
# Seconds that the encoder reads on either side of such a window and that are then dropped: no frame
# that is kept was made beside a cut.
ENCODER_CONTEXT = 0.64


class Engine:
  """Models of a bundle, loaded, and their compiled programs.

  Attributes:
    sample_rate: Sample rate of all audio in Hz.
    digest: SHA-256 of the bundle's files.
    programs: All programs compiled so far, and how long that took.
    codec: The VAE.
    styles: MuLan and its RVQ; only where the generator was read.
    networks: Models of the compiled program; None where only the codec was read.
  """

  def __init__(self, directory: str | os.PathLike, generates: bool = True):
    """Reads the bundle.

    Args:
      directory: Bundle as written by melody_jax.export and melody_jax.fit, or what else
        `places.bundles.locate` takes.
      generates: Whether to read the generator too; False reads the codec alone.

    Raises:
      UserError: if a model is missing, damaged, or does not fit the others.
    """
    directory = locate(directory)
    self.sample_rate = SAMPLE_RATE
    self.digest = bundle.digest(directory)
    self.programs = Programs()
    self.codec = Codec.load(directory)
    self._directory = directory
    # On the device once. The codec is there in any case: every mode decodes.
    self._params: dict[str, Any] = {"float32": {"vae": jax.device_put(self.codec.params)}}
    self.networks: Networks | None = None
    if generates:
      self._load_generator()

  def _load_generator(self) -> None:
    self.styles = Styles(self._directory, self.programs)
    lm_config, lm_params = bundle.load_model(self._directory, "lm", lm_model.LMConfig)
    lm = lm_model.SemanticLM(lm_config)
    dpd, dpd_params = choice.load(self._directory)
    # Files of one bundle may come from different recipes, and would fail deep inside the program.
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
    try:
      self.networks.check_chunks()
    except UserError as error:
      raise UserError(f"{self._directory}: {error}") from error
    self._params["float32"] |= jax.device_put({"lm": lm_params, "dpd": dpd_params})

  def run(self, inputs: window_program.Window, settings: Settings) -> window_program.Made:
    """Calls the compiled program once.

    Args:
      inputs: B windows of music.
      settings: How to sample.

    Returns:
      Tokens [B, W], latents [B, L, D] and audio [B, L hop] of these windows.
    """
    # Computing in a dtype is a matter of the networks; the parameters are cast once below.
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

  def tell_unheard(self, texts: Sequence[str], progress: Progress) -> None:
    """Tells what of some texts the models cannot hear, a line each.

    Args:
      texts: Prompts.
      progress: Told the lines; where it tells nobody they become warnings of Python.
    """
    for line in self.styles.unheard(texts):
      if progress is silent:
        warnings.warn(line, stacklevel=3)
      else:
        progress(line)

  def plan(self, request: Request, settings: Settings, progress: Progress) -> piece_plan.Piece:
    """A piece of which nothing is made yet: what of it is known, and its windows.

    Args:
      request: What is asked for.
      settings: How to sample.
      progress: Told what happens, a line at a time.

    Raises:
      UserError: if prompts cancel out, or a negative prompt cannot work.
    """
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
    progress("encoding the audio")
    latents, tokens = self.encode(request.audio), self._semantic_tokens(request.audio)
    return piece_plan.plan(networks, request, steering, latents, tokens)

  def params_in(self, dtype: str) -> Any:
    """The program's parameters; matrices, which networks cast anyway, are kept in `dtype`."""
    # Kept for every dtype that was asked for, so that no call has to cast all weights.
    if dtype not in self._params:

      def cast(path, x):
        return jnp.asarray(x, dtype) if path[-1].key in ("kernel", "embedding") else x

      # Norms and biases stay float32: they are small, and networks use them so.
      self._params[dtype] = jax.tree_util.tree_map_with_path(cast, self._params["float32"])
    return self._params[dtype]

  @functools.cached_property
  def _tokenizer(self) -> SemanticTokenizer:
    return SemanticTokenizer.load(self._directory)

  def _semantic_tokens(self, audio_T: np.ndarray) -> np.ndarray:
    """int32 [M] of a clip."""
    windows = len(audio_T) // round(CODEC_SECONDS * self.sample_rate)
    return self.programs.first_counts_as_compiling(
      ("semantic", windows), lambda: self._tokenizer.encode(audio_T)
    )

  def encode(self, audio_T: np.ndarray) -> np.ndarray:
    """Latents [N, D] of a clip [T] and of the silence that fills its last frame, or a window."""

    def program(params, audio, start):
      del start
      return encode_latents(self.codec.config, params, audio)

    hop = self.codec.config.hop_length
    context = round(ENCODER_CONTEXT * self.sample_rate) // hop
    return self._overlapped("encode", program, audio_T, hop, 1, context)

  def decode(self, latents_ND: np.ndarray) -> np.ndarray:
    """Audio [N hop] of latents [N, D]."""

    def program(params, latents, start):
      return decode_latents(self.codec.config, params, latents, start)

    codec = self.codec.config
    reach = decoder_reach(codec)
    return self._overlapped("decode", program, latents_ND, 1, codec.hop_length, reach)

  def _overlapped(
    self, name: str, function, x: np.ndarray, scale_in: int, scale_out: int, context: int
  ) -> np.ndarray:
    """Applies `function` to overlapping windows of `x` and joins what lies inside them.

    `context` frames at either end of a window are made and dropped.
    """
    length = round(CODEC_SECONDS * self.sample_rate) // self.codec.config.hop_length

    def call(window: np.ndarray, start: int) -> Any:
      starts = np.asarray([start], np.int32)
      return self.programs.call(name, function, self._params["float32"]["vae"], window, starts)

    return map_windows(call, x, length, context, scale_in, scale_out)
