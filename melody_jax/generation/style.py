"""Prompts to style tokens: MuLan's towers, mixtures of prompts, style that changes over time.

The style of a mixture is the weighted mean of the unit embeddings of its prompts, scaled back to
unit length, then the RVQ (docs/spec.md, section 3). Between two times of a timeline it is the mean
of both, weighted by nearness and treated alike.

Shape letters: C size of the joint space.
"""

from collections.abc import Sequence
import dataclasses
import functools
import os

import jax.numpy as jnp
import numpy as np

from melody_jax.encoders.style import StyleEncoder
from melody_jax.errors import UserError
from melody_jax.generation.programs import Programs
from melody_jax.generation.request import Mixture, Prompt, PromptLike, mixture
from melody_jax.models import mulan, quantizer
from melody_jax.text import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class StyleTrack:
  """Style over time.

  Attributes:
    times: Rising times in seconds, float64 [K].
    points: Unit embeddings at these times, float32 [K, C].
  """

  times: np.ndarray
  points: np.ndarray

  def at(self, seconds: float) -> np.ndarray:
    """The unit embedding [C] at a time; before the first and after the last that of these."""
    right = int(np.searchsorted(self.times, seconds))
    if right in (0, len(self.times)):
      return self.points[min(right, len(self.times) - 1)]
    left_time, right_time = self.times[right - 1], self.times[right]
    share = (seconds - left_time) / (right_time - left_time)
    return _unit((1.0 - share) * self.points[right - 1] + share * self.points[right])


def _unit(x_C: np.ndarray) -> np.ndarray:
  length = float(np.linalg.norm(x_C))
  # Rounding would choose the direction of so short a sum.
  if length < 1e-6:
    raise UserError("the prompts of a mixture cancel each other: change their weights")
  return (x_C / length).astype(np.float32)


class Styles:
  """MuLan and its RVQ, as functions of prompts.

  Attributes:
    levels: Number of style tokens that make one style.
  """

  def __init__(self, directory: str | os.PathLike, programs: Programs):
    """Reads the bundle's MuLan; the text tower's public body only when a text comes.

    Raises:
      UserError: if it is missing, damaged or not fitted.
    """
    encoder = StyleEncoder.load(directory, text=False)
    self._config, self._params = encoder.config, encoder.params
    self._programs = programs
    self._by_text: dict[str, np.ndarray] = {}
    self.levels = int(self._params["rvq"]["codebooks"].shape[0])

  def track(
    self, prompt: PromptLike, timeline: Sequence[tuple[float, PromptLike]] = ()
  ) -> StyleTrack:
    """The style of a request, over its time.

    Args:
      prompt: Prompt that holds all along; not read where there is a timeline.
      timeline: (seconds, prompt) pairs in rising order.

    Raises:
      UserError: if prompts cancel each other, or the text tower's package is missing.
    """
    timeline = timeline or ((0.0, prompt),)
    points = np.stack([self.embed(mixture(at)) for _, at in timeline])
    return StyleTrack(np.asarray([time for time, _ in timeline], np.float64), points)

  def embed(self, prompts: Mixture) -> np.ndarray:
    """The unit embedding [C] of a mixture."""
    return _unit(np.sum([p.weight * self._embed_one(p) for p in prompts], axis=0))

  def tokens(self, embedding_C: np.ndarray) -> np.ndarray:
    """Style tokens int32 [levels] of a unit embedding."""
    codebooks = self._params["rvq"]["codebooks"]
    found = self._programs.call("rvq", quantizer.rvq_encode, codebooks, embedding_C[None])
    return np.asarray(found)[0]

  def unheard(self, texts: Sequence[str]) -> list[str]:
    """One line for each thing that the models cannot hear of some texts, for the user to know.

    Args:
      texts: Prompts; each is looked at once.

    Raises:
      UserError: if the text tower's package is missing.
    """
    lines = []
    for text in dict.fromkeys(text.strip() for text in texts if text.strip()):
      cut, unknown = self._tokenizer.unheard(text)
      if cut:
        lines.append(
          f"the prompt is longer than the {self._config.text_length} tokens that the model reads;"
          f' not heard: "{" ".join(cut.split())}"'
        )
      if unknown:
        lines.append(
          f"the model does not know {', '.join(unknown)} and hears nothing there: say it in English"
          " words"
        )
    return lines

  @functools.cached_property
  def _tokenizer(self) -> Tokenizer:
    return load_tokenizer(self._config.text_length, self._config.text_init)

  def _embed_one(self, prompt: Prompt) -> np.ndarray:
    if prompt.audio is not None:
      return self._embed_music(prompt.audio)
    text = prompt.text.strip()
    # A batch, or a stream that is steered back and forth, has few texts and asks for them often.
    if text not in self._by_text:
      self._by_text[text] = self._embed_text(text)
    return self._by_text[text]

  def _embed_text(self, text: str) -> np.ndarray:
    config = self._config
    self._params = mulan.with_text_body(self._params, config)
    ids, mask = self._tokenizer.batch([text])

    def program(params, ids, mask):
      return mulan.embed_prompt(params, config, ids, mask)

    params = {k: v for k, v in self._params.items() if not k.startswith("music")}
    # One text a call: one compiled shape, and no text depends on others.
    return np.asarray(self._programs.call("text", program, params, ids, mask))[0]

  def _embed_music(self, audio_T: np.ndarray) -> np.ndarray:
    config = self._config
    windows = np.asarray(mulan.windows_of(jnp.asarray(audio_T[None]), config.window_samples))[0]

    def program(params, audio):
      return mulan.embed_music(params, config, audio)

    params = {k: v for k, v in self._params.items() if not k.startswith("text")}
    # One window a call: a single compiled shape, whatever the length of the clip.
    embedded = [
      np.asarray(self._programs.call("music", program, params, w[None]))[0] for w in windows
    ]
    return _unit(np.mean(embedded, axis=0))
