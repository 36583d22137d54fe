"""The style encoder: audio or text to a unit embedding and style tokens."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import bundle
from melody_jax.encoders.rows import map_rows
from melody_jax.models import mulan, quantizer
from melody_jax.text import MINILM, TOKENIZER, load_tokenizer


def load_mulan(directory: str | os.PathLike) -> tuple[mulan.MuLanConfig, dict[str, Any]]:
  """Reads the MuLan of a bundle.

  Returns:
    (its config, its parameters). Where the bundle brings the vocabulary of its own text encoder,
    `text_init` names the bundle, whatever checkpoint the training began with.

  Raises:
    UserError: if the file is missing or damaged.
  """
  config, params = bundle.load_model(directory, "mulan", mulan.MuLanConfig)
  by_path = config.text_init not in ("", MINILM) and mulan.TEXT_BODY in params
  if by_path and (pathlib.Path(directory) / TOKENIZER).is_file():
    config = dataclasses.replace(config, text_init=str(directory))
  return config, params


class StyleEncoder:
  """MuLan and its RVQ: audio or text to a unit embedding and 12 style tokens.

  Attributes:
    config: Sizes of MuLan.
    params: Parameters of both towers, and "rvq".
  """

  def __init__(self, config: Any, params: dict[str, Any]):
    self.config = config
    self.params = jax.device_put(params)
    self.embed_music = jax.jit(lambda p, audio: mulan.embed_music(p, config, audio))
    self._embed_text = jax.jit(lambda p, ids, mask: mulan.embed_text(p, config, ids, mask))
    # Parameters are arguments of all programs: as constants they would be compiled into each.
    self._tokens = jax.jit(quantizer.rvq_encode)

  @classmethod
  def load(
    cls, directory: str | os.PathLike, fitted: bool = True, text: bool = True
  ) -> "StyleEncoder":
    """Reads a bundle.

    Args:
      directory: The bundle.
      fitted: Whether the RVQ's codebooks must be there.
      text: Whether to load the text tower's body from its public package where the bundle omits
        it.

    Raises:
      UserError: if the file is missing, damaged, or not fitted.
    """
    config, params = load_mulan(directory)
    if fitted:
      bundle.require(directory, "mulan", params, "rvq", "codebooks")
    return cls(config, mulan.with_text_body(params, config) if text else params)

  @property
  def digest(self) -> str:
    """SHA-256 of all that makes style tokens of audio."""
    encoder = {k: v for k, v in self.params.items() if not k.startswith(("text", "prior"))}
    return bundle.params_digest(self.config, encoder)

  @property
  def text_digest(self) -> str:
    """SHA-256 of all that makes style tokens of audio and of text."""
    return bundle.params_digest(self.config, self.params)

  def audio(self, audio_BT: np.ndarray) -> jax.Array:
    """Clips [B, T] at 24 kHz -> unit embeddings [B, C]."""
    return self.embed_music(self.params, jnp.asarray(audio_BT))

  def tokens_of_clips(self, clips: Sequence[np.ndarray], hop_seconds: float) -> list[np.ndarray]:
    """Clips [T] -> int32 [windows, 12] each: tokens of the windows that start every hop.

    A clip shorter than a window is one window, filled as `mulan.fill_window` does.
    """
    length, hop = self.config.window_samples, round(hop_seconds * self.config.sample_rate)
    rows, counts = [], []
    for clip in clips:
      starts = range(0, max(len(clip) - length, 0) + 1, hop)
      # Windows of all clips in one list, so that the devices are never short of rows.
      rows += [mulan.fill_window(clip[s : s + length], length) for s in starts]
      counts.append(len(starts))
    tokens = map_rows(lambda audio: self.tokens(self.audio(audio)), np.stack(rows))
    return np.split(tokens, np.cumsum(counts)[:-1])

  def text(self, prompts: list[str]) -> jax.Array:
    """Prompts -> unit embeddings [B, C]."""
    return self._embed_text(self.params, *self._ids_and_mask(prompts))

  def _ids_and_mask(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    # Loaded when the first text comes: music alone needs no tokeniser.
    tokenize = load_tokenizer(self.config.text_length, self.config.text_init)
    ids, mask = zip(*map(tokenize, texts), strict=True)
    return np.stack(ids), np.stack(mask)

  def tokens_of_texts(self, texts: list[str]) -> np.ndarray:
    """Texts -> int32 [n, 12], their style tokens."""
    return map_rows(
      lambda ids, mask: self.tokens(self._embed_text(self.params, ids, mask)),
      *self._ids_and_mask(texts),
    )

  def tokens(self, embeddings_BC: jax.Array) -> jax.Array:
    """Unit embeddings [B, C] -> style tokens int32 [B, 12]."""
    return self._tokens(self.params["rvq"]["codebooks"], embeddings_BC)
