"""The semantic tokeniser: audio to 25 Hz tokens."""

from collections.abc import Sequence
import functools
import os
from typing import Any

import jax
import numpy as np

from melody_jax import bundle
from melody_jax.encoders.rows import map_rows
from melody_jax.encoders.windows import overlapping_windows
from melody_jax.models import wav2vec


class SemanticTokenizer:
  """wav2vec 2.0 features and k-means: audio to 25 Hz tokens.

  Attributes:
    config: Sizes; `config.hop` samples per token.
    params: Parameters of the model, and "kmeans".
  """

  window_seconds = 10.0  # what the model saw in training
  context_seconds = 1.0  # thrown away at either side of a window inside a longer clip

  def __init__(self, config: Any, params: dict[str, Any]):
    self.config = config
    self.params = params
    self._tokens = jax.jit(
      lambda p, audio, lengths: wav2vec.semantic_tokens(p, config, audio, lengths)
    )

  @classmethod
  def load(cls, directory: str | os.PathLike) -> "SemanticTokenizer":
    """Reads a bundle with fitted k-means centres.

    Raises:
      UserError: if the file is missing, damaged, or not fitted.
    """
    config, params = bundle.load_model(directory, "wav2vec", wav2vec.Wav2VecConfig)
    bundle.require(directory, "wav2vec", params, "kmeans", "centroids")
    return cls(config, params)

  @property
  def digest(self) -> str:
    """SHA-256 of all that makes semantic tokens of audio."""
    encoder = self.params
    return bundle.params_digest(self.config, encoder)

  def encode(self, audio_T: np.ndarray) -> np.ndarray:
    """A clip [T] of any length -> int32 [T // hop]; see `encode_clips`."""
    return self.encode_clips([audio_T])[0]

  def encode_clips(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Clips [T] of any lengths -> int32 [T // hop] each.

    Clips longer than a window are read in windows that overlap by the context on both sides.
    """
    hop = self.config.hop
    # Always whole windows of one length: a token must not depend on how a clip was cut or padded.
    length = round(self.window_seconds * self.config.sample_rate) // hop
    context = round(self.context_seconds * self.config.sample_rate) // hop
    plans = [overlapping_windows(len(clip) // hop, length, context) for clip in clips]
    owners = [(clip, window) for clip, plan in zip(clips, plans, strict=True) for window in plan]
    # Windows of all clips in one list: no device waits for the end of a clip.
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
