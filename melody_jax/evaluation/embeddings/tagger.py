"""The layer before the tags of musicnn as an embedding."""

import numpy as np

from melody_jax.evaluation.embeddings.adapter import digest_of
from melody_jax.evaluation.musicnn.tagger import HOP, MUSICNN_SAMPLE_RATE, Tagger, load

_HOP_FRAMES = MUSICNN_SAMPLE_RATE // HOP  # about a second: three windows hear every moment


class TaggerEmbedding:
  """musicnn's 200 numbers before its tags, for windows of 3 s a second apart.

  Args:
    tagger: The trained tagger.
  """

  sample_rate = MUSICNN_SAMPLE_RATE

  def __init__(self, tagger: Tagger):
    self._tagger = tagger
    self.name = f"musicnn-{tagger.model}"
    arrays = [np.asarray(tagger.params[name]) for name in sorted(tagger.params)]
    self.digest = digest_of(*arrays, f"hop {_HOP_FRAMES}".encode())

  @classmethod
  def load(cls, model: str) -> "TaggerEmbedding":
    """The tagger "MTT" or "MSD", see `musicnn.tagger.load`, whose errors it raises."""
    return cls(load(model))

  def __call__(self, audio_S: np.ndarray) -> np.ndarray:
    """Audio [samples] at 16 kHz -> float32 [windows, 200]."""
    _, embeddings_WxD = self._tagger.windows(audio_S, _HOP_FRAMES)
    return embeddings_WxD
