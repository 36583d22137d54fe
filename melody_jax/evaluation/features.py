"""Held-out windows with the features that a model reads: stored ones, or computed from audio."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from melody_jax.encoders.codec import Codec
from melody_jax.encoders.semantic import SemanticTokenizer
from melody_jax.encoders.style import StyleEncoder
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import Clip, in_batches, read_windows, stack_clips
from melody_jax.input_pipeline.dataset import Dataset


class Encoders:
  """The trained encoders of a bundle, each loaded when it is first used.

  Args:
    bundle: Directory of the bundle.
    batch_size: Clips per call of an encoder.
  """

  def __init__(self, bundle: str, batch_size: int):
    # Loaded late: most evaluations need one encoder, and the style encoder brings a text model.
    self._bundle = bundle
    self._batch_size = batch_size
    self._codec: Codec | None = None
    self._semantic: SemanticTokenizer | None = None
    self._style: StyleEncoder | None = None

  @property
  def codec(self) -> Codec:
    """The codec (VAE)."""
    self._codec = self._codec or Codec.load(self._bundle)
    return self._codec

  @property
  def semantic(self) -> SemanticTokenizer:
    """The semantic tokeniser: Wav2Vec2-Conformer and k-means."""
    self._semantic = self._semantic or SemanticTokenizer.load(self._bundle)
    return self._semantic

  @property
  def style(self) -> StyleEncoder:
    """The style encoder: both towers of MuLan, and the RVQ."""
    self._style = self._style or StyleEncoder.load(self._bundle)
    return self._style

  def embed_music(self, audio_BxS: np.ndarray) -> np.ndarray:
    """Embeds clips [B, samples] as unit vectors, float32 [B, C]."""
    return in_batches(self.style.audio, (audio_BxS,), min(self._batch_size, len(audio_BxS)))

  def embed_text(self, texts: list[str]) -> np.ndarray:
    """Embeds N texts as unit vectors, float32 [N, C]."""
    # Batches of one size however many texts there are: one compiled program.
    array = np.array(texts, dtype=object)
    return in_batches(lambda batch: self.style.text(list(batch)), (array,), 16)

  def check(self, dataset: Dataset, names: tuple[str, ...]) -> None:
    """Refuses stored features that other models made; a dataset that does not say passes.

    Args:
      dataset: Dataset that holds the features.
      names: Names of the features, some of ENCODED.

    Raises:
      UserError: if a feature is of another model than that of this bundle.
    """
    for name in names:
      made_by = dataset.made_from.get("models", {}).get(name)
      if made_by and made_by != self._encoder_of(name).digest:
        raise UserError(
          f"{name} of the dataset was made by another model than that of {self._bundle}: encode it"
          " again with this bundle"
        )

  def _encoder_of(self, name: str) -> Codec | SemanticTokenizer | StyleEncoder:
    if name == "style_tokens":
      return self.style
    return self.codec if name == "latents" else self.semantic

  def compute(self, name: str, audio_BxS: np.ndarray) -> np.ndarray:
    """Computes one encoded feature of clips of equal length.

    Args:
      name: One of ENCODED.
      audio_BxS: Clips [B, samples] in [-1, 1].

    Returns:
      Style tokens int32 [B, levels], semantic tokens int32 [B, T] or latents float32 [B, L, D].
    """
    if name == "style_tokens":
      return np.asarray(self.style.tokens(jnp.asarray(self.embed_music(audio_BxS))))
    if name == "latents":
      return in_batches(self.codec.encode, (audio_BxS,), min(self._batch_size, len(audio_BxS)))
    # One by one: the tokeniser cuts a clip into windows and makes batches of them itself.
    return np.stack([self.semantic.encode(audio) for audio in audio_BxS])


def encoded_windows(
  dataset: Dataset,
  encoders: Encoders,
  seconds: float,
  names: tuple[str, ...],
  count: int = 0,
  seed: int = 0,
) -> list[Clip]:
  """Windows with some of style_tokens, semantic_tokens and latents.

  They are read where the dataset holds all that are asked for, else computed from its audio.

  Raises:
    UserError: if the dataset holds neither those features nor audio, or they are of other models.
  """
  # All or nothing: stored features may come from another bundle than this one.
  if all(name in dataset.features for name in names):
    encoders.check(dataset, names)
    return read_windows(dataset, seconds, names, count, seed)
  if "audio" not in dataset.features:
    raise UserError(
      f"a dataset holds {', '.join(dataset.features)}: it needs {', '.join(names)}, or audio"
    )
  clips = read_windows(dataset, seconds, ("audio",), count, seed)
  audio = stack_clips(clips, "audio")
  computed = {name: encoders.compute(name, audio) for name in names}
  return [
    dataclasses.replace(clip, arrays={name: computed[name][i] for name in names})
    for i, clip in enumerate(clips)
  ]
