"""Trained models as functions over waveforms: the codec, the semantic tokeniser, style.

Each is loaded from a bundle (`melody_jax/bundle.py`) and holds its parameters; methods
take and return arrays and compile once per shape.
"""

from collections.abc import Sequence
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import bundle
from melody_jax.audio import SAMPLE_RATE
from melody_jax.errors import UserError
from melody_jax.local_rows import map_rows
from melody_jax.models import vae as vae_model
from melody_jax.windows import Window, overlapping_windows


def _constant(params: dict[str, Any], path: os.PathLike, *keys: str) -> Any:
  """Takes a fitted constant out of a model's parameters."""
  node: Any = params
  for key in keys:
    if key not in node:
      raise UserError(
        f"{path} lacks {'/'.join(keys)}: fit it with python -m melody_jax.fit_quantizer"
      )
    node = node[key]
  return node


class Codec:
  """The VAE as a codec between 24 kHz audio and the DPD's latents in [-1, 1].

  Attributes:
    config: sizes; `config.hop_length` samples per latent frame.
    params: {"encoder", "decoder", "latent_scale": {"center_D", "sigma_D"}}.
  """

  def __init__(self, config: vae_model.VAEConfig, params: dict[str, Any]):
    self.config = config
    self.params = params
    self.encode_mean = jax.jit(functools.partial(_codec_mean, config))
    self._encode = jax.jit(functools.partial(encode_latents, config))
    self._decode = jax.jit(functools.partial(decode_latents, config))

  @classmethod
  def load(cls, directory: str | os.PathLike, fitted: bool = True) -> "Codec":
    """From a bundle; `fitted` demands the latents' scale."""
    config, params = bundle.load_model(directory, "vae", vae_model.VAEConfig)
    if fitted:
      _constant(params, bundle.path_of(directory, "vae"), "latent_scale", "sigma_D")
    return cls(config, params)

  def encode(self, audio_BT: np.ndarray) -> jax.Array:
    """[B, T] -> latents [B, T // hop, D] in [-1, 1]; T is cut to a multiple of the hop."""
    frames = audio_BT.shape[1] // self.config.hop_length
    return self._encode(self.params, jnp.asarray(audio_BT[:, : frames * self.config.hop_length]))

  def encode_clips(self, clips: Sequence[np.ndarray], block_seconds: float = 30.0):
    """Clips [T] of any lengths -> list of latents [T // hop, D], each clip in one pass.

    Clips are padded to whole blocks, so that few shapes are compiled.
    """
    hop = self.config.hop_length
    block = round(block_seconds * SAMPLE_RATE) // hop
    blocks = [-(-(len(clip) // hop) // block) for clip in clips]
    out: list[Any] = [None] * len(clips)
    for n in sorted(set(blocks)):
      chosen = [i for i, b in enumerate(blocks) if b == n]
      rows = np.zeros((len(chosen), n * block * hop), np.float32)
      for row, i in zip(rows, chosen, strict=True):
        kept = len(clips[i]) // hop * hop
        row[:kept] = clips[i][:kept]
      latents = map_rows(functools.partial(self._encode, self.params), rows)
      for i, clip_latents in zip(chosen, latents, strict=True):
        out[i] = clip_latents[: len(clips[i]) // hop]
    return out

  def decode(self, latents_BLD: jax.Array) -> jax.Array:
    """Latents [B, L, D] -> audio [B, L * hop]."""
    return self._decode(self.params, jnp.asarray(latents_BLD))


def _codec_mean(config: vae_model.VAEConfig, params, audio_BT):
  return vae_model.VAE(config).apply({"params": params}, audio_BT, method="encode")[0]


def encode_latents(
  config: vae_model.VAEConfig, params: dict[str, Any], audio_BT: jax.Array
) -> jax.Array:
  """Pure form of `Codec.encode`; T is a multiple of the hop."""
  return vae_model.scale_latents(_codec_mean(config, params, audio_BT), **params["latent_scale"])


def decode_latents(
  config: vae_model.VAEConfig, params: dict[str, Any], latents_BLD: jax.Array
) -> jax.Array:
  """Pure form of `Codec.decode`."""
  unscaled = vae_model.unscale_latents(latents_BLD, **params["latent_scale"])
  return vae_model.VAE(config).apply({"params": params}, unscaled, method="decode")


class SemanticTokenizer:
  """wav2vec 2.0 features and k-means: audio to 25 Hz tokens.

  Attributes:
    config: sizes; `config.hop` samples per token.
    params: the model's, and "kmeans".
  """

  window_seconds = 10.0  # what the model saw in training
  context_seconds = 1.0  # thrown away at either side of a window inside a longer clip

  def __init__(self, config: Any, params: dict[str, Any]):
    from melody_jax.models import wav2vec

    self.config = config
    self.params = params
    self._tokens = jax.jit(
      lambda p, audio, lengths: wav2vec.semantic_tokens(p, config, audio, lengths)
    )

  @classmethod
  def load(cls, directory: str | os.PathLike) -> "SemanticTokenizer":
    """From a bundle with fitted k-means centres."""
    from melody_jax.models.wav2vec import Wav2VecConfig

    config, params = bundle.load_model(directory, "wav2vec", Wav2VecConfig)
    _constant(params, bundle.path_of(directory, "wav2vec"), "kmeans", "centroids")
    return cls(config, params)

  def encode(self, audio_T: np.ndarray) -> np.ndarray:
    """A clip [T] of any length -> int32 [T // hop]; see `encode_clips`."""
    return self.encode_clips([audio_T])[0]

  def encode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Clips [T] of any lengths -> int32 [T // hop] each.

    Clips longer than a window are read in windows that overlap by the context on both sides.
    """
    hop = self.config.hop
    length = round(self.window_seconds * self.config.sample_rate) // hop
    context = round(self.context_seconds * self.config.sample_rate) // hop
    plans = []
    for clip in clips:
      frames = len(clip) // hop
      whole = [Window(0, 0, frames)]
      plans.append(overlapping_windows(frames, length, context) if frames > length else whole)
    owners = [(clip, window) for clip, plan in zip(clips, plans, strict=True) for window in plan]
    rows = np.zeros((len(owners), length * hop), np.float32)
    lengths = np.zeros(len(owners), np.int32)
    for i, (clip, window) in enumerate(owners):
      piece = clip[window.start * hop : min(window.start + length, len(clip) // hop) * hop]
      rows[i, : len(piece)], lengths[i] = piece, len(piece)
    tokens = iter(map_rows(functools.partial(self._tokens, self.params), rows, lengths))
    return [
      np.concatenate([next(tokens)[w.begin - w.start : w.end - w.start] for w in plan])
      for plan in plans
    ]


class StyleEncoder:
  """MuLan and its RVQ: audio or text to a unit embedding and 12 style tokens."""

  def __init__(self, config: Any, params: dict[str, Any]):
    from melody_jax.models import mulan, quantizer

    self.config = config
    self.params = jax.device_put(params)
    self.embed_music = jax.jit(lambda p, audio: mulan.embed_music(p, config, audio))
    self._embed_text = jax.jit(lambda p, ids, mask: mulan.embed_text(p, config, ids, mask))
    self._tokens = jax.jit(quantizer.rvq_encode)

  @classmethod
  def load(
    cls, directory: str | os.PathLike, fitted: bool = True, text: bool = True
  ) -> "StyleEncoder":
    """From a bundle.

    Args:
      directory: the bundle.
      fitted: demand the RVQ's codebooks.
      text: also load the text tower's body from its public package where the bundle omits it.
    """
    from melody_jax.models import mulan

    config, params = bundle.load_model(directory, "mulan", mulan.MuLanConfig)
    if fitted:
      _constant(params, bundle.path_of(directory, "mulan"), "rvq", "codebooks")
    return cls(config, mulan.with_text_body(params, config) if text else params)

  def audio(self, audio_BT: np.ndarray) -> jax.Array:
    """[B, T] -> unit embeddings [B, C]."""
    return self.embed_music(self.params, jnp.asarray(audio_BT))

  def tokens_of_clips(self, clips: Sequence[np.ndarray], hop_seconds: float) -> list[np.ndarray]:
    """Clips [T] -> int32 [windows, 12] each: tokens of the windows that start every hop.

    A clip shorter than a window is one window, padded with silence.
    """
    length, hop = self.config.window_samples, round(hop_seconds * self.config.sample_rate)
    rows, counts = [], []
    for clip in clips:
      starts = range(0, max(len(clip) - length, 0) + 1, hop)
      rows += [np.pad(clip[s : s + length], (0, max(0, length - len(clip)))) for s in starts]
      counts.append(len(starts))
    tokens = map_rows(lambda audio: self.tokens(self.audio(audio)), np.stack(rows))
    return np.split(tokens, np.cumsum(counts)[:-1])

  def text(self, prompts: list[str]) -> jax.Array:
    """Prompts -> unit embeddings [B, C]."""
    from melody_jax.text import load_tokenizer

    tokenize = load_tokenizer(self.config.text_length, self.config.text_init)
    ids, mask = (np.stack(x) for x in zip(*(tokenize(p) for p in prompts), strict=True))
    return self._embed_text(self.params, ids, mask)

  def tokens(self, embeddings_BC: jax.Array) -> jax.Array:
    """Unit embeddings [B, C] -> style tokens int32 [B, 12]."""
    return self._tokens(self.params["rvq"]["codebooks"], embeddings_BC)
