"""What a user asks for: one `Request` for each item, one `Settings` for each call.

Plain data without JAX, checked by the table in `options`. Times are seconds, audio is mono
float32 [samples] in [-1, 1] at 24 kHz (`melody_jax.audio_io.load_clip` reads any file so).
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.errors import UserError, check_range
from melody_jax.generation.options import (
  MIN_SECONDS,
  check_interval,
  check_option,
  check_prompt_length,
  check_region,
  check_times,
)
from melody_jax.host.decoding import check_samples

DEFAULT_SECONDS = 10.0
# A variation with less noise keeps the semantic tokens, one with more draws them again.
REDRAW_STRENGTH = 0.5
MAX_WEIGHT = 1e6  # squares of larger ones overflow; nobody hears the difference


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A text or a clip whose style to follow, and its weight in a mixture.

  Attributes:
    text: Text of at most 1,000 characters; "" where a clip is given.
    audio: Clip float32 [samples] at 24 kHz; None where a text is given.
    weight: Weight of its unit embedding in the mean of a mixture; negative: away from it.
  """

  text: str = ""
  audio: np.ndarray | None = None
  weight: float = 1.0

  def __post_init__(self):
    # Exactly one of both: equal truth values mean none, or two.
    if (self.audio is None) == (not self.text.strip()):
      raise UserError("a prompt is a text or a clip: the prompt is empty, or both are given")
    check_prompt_length("a prompt", self.text)
    if self.audio is not None:
      check_waveform(self.audio, "a prompt's audio")
    check_range("a prompt's weight", self.weight, -MAX_WEIGHT, MAX_WEIGHT)


PromptLike = str | Prompt | Sequence[str | Prompt]
Mixture = tuple[Prompt, ...]


def mixture(prompt: PromptLike) -> Mixture:
  """One prompt or several, as a tuple of `Prompt`; an empty string is none.

  Raises:
    UserError: if all weights are 0.
  """
  if isinstance(prompt, str | Prompt):
    prompt = (prompt,) if prompt else ()
  # A plain text is the usual case; weights need a Prompt.
  prompts = tuple(Prompt(p) if isinstance(p, str) else p for p in prompt)
  if prompts and not any(p.weight for p in prompts):
    raise UserError("all weights of a mixture are 0: give one prompt another weight")
  return prompts


def check_waveform(audio: np.ndarray, what: str) -> None:
  """Refuses what is no finite clip [samples] of a second or more.

  Args:
    audio: Samples at 24 kHz.
    what: Name of the clip, for the message.

  Raises:
    UserError: if the clip has channels, is too short, or holds NaN, infinity or absurd peaks.
  """
  if np.ndim(audio) != 1:
    raise UserError(f"{what} has shape {np.shape(audio)}: it must be mono, [samples]")
  if len(audio) < MIN_SECONDS * SAMPLE_RATE:
    raise UserError(
      f"{what} is {len(audio) / SAMPLE_RATE:.2f} s long; at least {MIN_SECONDS:g} s is needed"
    )
  if wrong := check_samples(np.asarray(audio)):
    raise UserError(f"{what} {wrong}")


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """One piece of music.

  Without `audio` it is made from the prompt. With `audio` alone it goes on after it; with
  `regions` these are made anew and the rest stays; with `strength` alone all of it is varied.

  Attributes:
    prompt: Text, clip, or a mixture of several. May be left out where there is `audio`, whose own
      style then holds.
    timeline: Instead of `prompt`, (seconds, prompt) pairs in rising order: the style at these
      times, in between their weighted mean, before and after the nearest one.
    negative: Prompt to move away from; works through Settings.lm_guidance_scale, which must
      pass 1.
    audio: Music to go on from or to change, float32 [samples] at 24 kHz.
    regions: (begin, end) pairs, in seconds of `audio`.
    strength: Share of noise that regions, or all, start from, at most 1; under 0.5 the semantic
      tokens (the tune) stay. None: 1 for regions.
    seconds: Music to make: the length of the result, or what is added after `audio`; None:
      10 s. Changed audio keeps its length.
    seed: Seed of all random draws, 0 to 2^32 - 1; another one gives other music.
  """

  prompt: PromptLike = ()
  timeline: Sequence[tuple[float, PromptLike]] = ()
  negative: PromptLike = ()
  audio: np.ndarray | None = None
  regions: Sequence[tuple[float, float]] = ()
  strength: float | None = None
  seconds: float | None = None
  seed: int = 0

  def __post_init__(self):
    check_option("seed", self.seed)
    self._check_style()
    if self.audio is None:
      if self.regions or self.strength is not None:
        raise UserError("regions and strength change existing music: give audio too")
    else:
      check_waveform(self.audio, "audio")
      self._check_edit(len(self.audio) / SAMPLE_RATE)
    if self.seconds is not None:
      check_range("seconds", self.seconds, MIN_SECONDS, math.inf)  # Python may make hours

  def _check_style(self) -> None:
    # For their checks; the results are made again when they are needed.
    mixture(self.prompt), mixture(self.negative)
    if self.timeline and self.prompt:
      raise UserError("prompt and timeline are both set: give one of them")
    check_times("timeline", [time for time, _ in self.timeline])
    # A time without a style would have no embedding to move to.
    if any(not mixture(prompt) for _, prompt in self.timeline):
      raise UserError("a timeline has an empty prompt")
    if not self.prompt and not self.timeline and self.audio is None:
      raise UserError("the prompt is empty: give a text, a clip, or audio to go on from")

  def _check_edit(self, length: float) -> None:
    check_option("strength", self.strength)
    for begin, end in self.regions:
      check_region(begin, end)
      # A rounded length in seconds is not an error: half a frame of grace.
      if end > length + 0.01:
        raise UserError(f"region {begin:g}-{end:g} lies outside the audio of {length:.2f} s")
    if self.mode != "continue" and self.seconds is not None:
      raise UserError("seconds does not go with changing audio: the result is as long as that")

  @property
  def texts(self) -> list[str]:
    """All texts that it names: of the prompt, the timeline and the negative prompt."""
    named = (self.prompt, *(prompt for _, prompt in self.timeline), self.negative)
    return [p.text for prompt in named for p in mixture(prompt) if p.text]

  @property
  def mode(self) -> str:
    """Which of "generate", "continue", "inpaint" and "vary" this is."""
    if self.audio is None:
      return "generate"
    if self.regions:
      return "inpaint"
    # What is given tells the mode, so that no two fields can contradict each other.
    return "continue" if self.strength is None else "vary"

  @property
  def n_samples(self) -> int:
    """Length of the result, in samples."""
    made = round((self.seconds or DEFAULT_SECONDS) * SAMPLE_RATE)
    if self.audio is None:
      return made
    return len(self.audio) + (made if self.mode == "continue" else 0)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to sample; holds for all items of a call. Ranges: `options.OPTIONS`.

  Only guidance on or off, the filters of the LM and `dtype` change the compiled program.

  Attributes:
    steps: Denoising steps.
    schedule: Name of the schedule of angles, "linear" (the paper's) or "uniform".
    solver: "ddim", or "ab2", which is of second order (`diffusion.solve`).
    guidance_scale: Guidance of the DPD; 1 is none.
    guidance_interval: Shares (low, high) of the noise angle pi/2 between which guidance acts; steps
      outside take one network row for each item instead of two.
    guidance_rescale: Share of `diffusion.guide`'s rescaling.
    temperature: Temperature of the LM; 0 takes the most likely token.
    top_k: Most likely tokens that the LM keeps; None keeps all.
    top_p: Probability that the LM keeps; None keeps all tokens.
    lm_guidance_scale: Guidance of the LM, away from the negative prompt or from "no style"; 1 is
      none.
    repetition_penalty: Taken off a token's logit for each time it was drawn in the last
      `repetition_span` tokens; 0 is none.
    repetition_span: Tokens that the penalty looks back; 25 tokens are a second.
    dtype: Dtype of computation, "float32" or "bfloat16".
  """

  steps: int = 10
  schedule: str = "linear"
  solver: str = "ddim"
  guidance_scale: float = 1.5
  guidance_interval: tuple[float, float] = (0.0, 1.0)
  guidance_rescale: float = 0.0
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  lm_guidance_scale: float = 3.0
  repetition_penalty: float = 0.0
  repetition_span: int = 50
  dtype: str = "float32"

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.name != "guidance_interval":
        check_option(field.name, getattr(self, field.name))
    low, high = self.guidance_interval
    check_interval(low, high, "guidance_interval[0]", "guidance_interval[1]")
