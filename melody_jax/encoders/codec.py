"""The VAE as a codec between audio and latents.

It is loaded from a bundle (`melody_jax/bundle.py`) and holds its parameters; methods take and
return arrays and compile once per shape.
"""

from collections.abc import Sequence
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import bundle
from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.encoders.rows import map_rows
from melody_jax.models import vae as vae_model


class Codec:
  """The VAE as a codec between 24 kHz audio and the DPD's latents in [-1, 1].

  Attributes:
    config: Sizes; `config.hop_length` samples per latent frame.
    params: Parameters, {"encoder", "decoder", "latent_scale": {"center_D", "sigma_D"} and perhaps
      {"gain_D"}}.
  """

  def __init__(self, config: vae_model.VAEConfig, params: dict[str, Any]):
    self.config = config
    self.params = params
    # Unscaled: the fit of the scale reads these before there is one.
    self.encode_mean = jax.jit(functools.partial(_codec_mean, config))
    self._encode = jax.jit(functools.partial(encode_latents, config))
    self._decode = jax.jit(functools.partial(decode_latents, config))

  @classmethod
  def load(cls, directory: str | os.PathLike, fitted: bool = True) -> "Codec":
    """Reads a bundle.

    Args:
      directory: The bundle.
      fitted: Whether the scale of the latents must be there; a fit reads the codec before it is.

    Raises:
      UserError: if the file is missing, damaged, or not fitted.
    """
    config, params = bundle.load_model(directory, "vae", vae_model.VAEConfig)
    if fitted:
      bundle.require(directory, "vae", params, "latent_scale", "sigma_D")
    return cls(config, params)

  @property
  def digest(self) -> str:
    """SHA-256 of all that makes latents of audio."""
    encoder = {k: v for k, v in self.params.items() if k != "decoder"}
    return bundle.params_digest(self.config, encoder)

  def encode(self, audio_BT: np.ndarray) -> jax.Array:
    """Audio [B, T] -> latents [B, T // hop, D] in [-1, 1]; T is cut to a multiple of the hop."""
    frames = audio_BT.shape[1] // self.config.hop_length
    return self._encode(self.params, jnp.asarray(audio_BT[:, : frames * self.config.hop_length]))

  def encode_clips(self, clips: Sequence[np.ndarray], block_seconds: float = 30.0):
    """Clips [T] of any lengths -> list of latents [T // hop, D], each clip in one pass.

    Clips are padded to whole blocks, so that few shapes are compiled.
    """
    hop = self.config.hop_length
    # Whole blocks: clips of all lengths then need a handful of compiled shapes.
    block = round(block_seconds * SAMPLE_RATE) // hop
    blocks = [-(-(len(clip) // hop) // block) for clip in clips]
    out: list[Any] = [None] * len(clips)
    # Clips of as many blocks go together; they come back in the order in which they were given.
    for n in sorted(set(blocks)):
      chosen = [i for i, b in enumerate(blocks) if b == n]
      rows = np.zeros((len(chosen), n * block * hop), np.float32)
      for row, i in zip(rows, chosen, strict=True):
        kept = len(clips[i]) // hop * hop
        # Whole frames only: a rest would make a frame that is partly filling.
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
  config: vae_model.VAEConfig,
  params: dict[str, Any],
  latents_BLD: jax.Array,
  start_B: jax.Array | None = None,
) -> jax.Array:
  """Pure form of `Codec.decode`: latents [B, L, D] -> audio [B, L * hop].

  `start_B` is the first frame of each row in its piece, int32 [B]; None: 0.
  """
  unscaled = vae_model.unscale_latents(latents_BLD, **params["latent_scale"])
  return vae_model.VAE(config).apply({"params": params}, unscaled, start_B, method="decode")
