"""What a user asks for: one `Request` an item, one `Settings` a call.

Plain data, checked here, without JAX. Times are seconds, audio is mono float32 [samples] in
[-1, 1] at 24 kHz (`melody_jax.audio_io.load_clip` reads any file so).
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math

import numpy as np

from melody_jax.audio_io import SAMPLE_RATE
from melody_jax.errors import UserError

DEFAULT_SECONDS = 10.0
MIN_SECONDS = 1.0
MAX_PROMPT_CHARACTERS = 1000
MAX_STEPS = 100
SCHEDULES = ("linear", "uniform")  # those of diffusion.py, which imports JAX
SOLVERS = ("ddim", "ab2")
DTYPES = ("float32", "bfloat16")
# A variation with less noise keeps the semantic tokens, one with more draws them again.
REDRAW_STRENGTH = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A text or a clip whose style to follow, and its weight in a mixture (negative: away from it).

  Attributes:
    text: at most 1,000 characters; or
    audio: [samples].
    weight: of its unit embedding in the weighted mean.
  """

  text: str = ""
  audio: np.ndarray | None = None
  weight: float = 1.0

  def __post_init__(self):
    if (self.audio is None) == (not self.text.strip()):
      raise UserError("a prompt is a text or a clip: the prompt is empty, or both are given")
    if len(self.text) > MAX_PROMPT_CHARACTERS:
      raise UserError(
        f"a prompt is {len(self.text)} characters long; the limit is {MAX_PROMPT_CHARACTERS}"
      )
    if self.audio is not None:
      check_audio(self.audio, "a prompt's audio")
    if not math.isfinite(self.weight):
      raise UserError(f"a prompt's weight is {self.weight}: it must be a number")


PromptLike = str | Prompt | Sequence[str | Prompt]
Mixture = tuple[Prompt, ...]


def mixture(prompt: PromptLike) -> Mixture:
  """One prompt or several, as a tuple of `Prompt`; an empty string is none.

  Raises:
    UserError: where the weights leave nothing.
  """
  if isinstance(prompt, str | Prompt):
    prompt = (prompt,) if prompt else ()
  prompts = tuple(Prompt(p) if isinstance(p, str) else p for p in prompt)
  if prompts and not any(p.weight for p in prompts):
    raise UserError("all weights of a mixture are 0: give one prompt another weight")
  return prompts


def check_audio(audio: np.ndarray, what: str) -> None:
  """Raises UserError unless `audio` is a finite clip [samples] of a second or more."""
  if np.ndim(audio) != 1:
    raise UserError(f"{what} has shape {np.shape(audio)}: it must be mono, [samples]")
  if len(audio) < MIN_SECONDS * SAMPLE_RATE:
    raise UserError(
      f"{what} is {len(audio) / SAMPLE_RATE:.2f} s long; at least {MIN_SECONDS:g} s is needed"
    )
  if not np.isfinite(audio).all():
    raise UserError(f"{what} holds samples that are not finite")


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """One piece of music.

  Without `audio` it is made from the prompt. With `audio` alone it goes on after it; with
  `regions` these are made anew and the rest stays; with `strength` alone all of it is varied.

  Attributes:
    prompt: text, clip, or a mixture of several. May be left out where there is `audio`, whose own
      style then holds.
    timeline: instead of `prompt`, (seconds, prompt) pairs in rising order: the style at these
      times, in between their weighted mean, before and after the nearest one.
    negative: what to move away from; works through Settings.lm_guidance_scale, which must pass 1.
    audio: music to go on from or to change.
    regions: (begin, end) in seconds of `audio`.
    strength: in (0, 1], share of the noise that regions, or all, start from; under 0.5 the
      semantic tokens (the tune) stay. None: 1 for regions.
    seconds: of music to make: the length of the result, or what is added after `audio`; None:
      10 s. Changed audio keeps its length.
    seed: another one, other music.
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
    if not 0 <= self.seed < 2**32:
      raise UserError(f"seed is {self.seed}; it takes 0 to {2**32 - 1}")
    self._check_style()
    if self.audio is None:
      if self.regions or self.strength is not None:
        raise UserError("regions and strength change existing music: give audio too")
    else:
      check_audio(self.audio, "audio")
      self._check_edit(len(self.audio) / SAMPLE_RATE)
    if self.seconds is not None and not MIN_SECONDS <= self.seconds < math.inf:
      raise UserError(f"seconds is {self.seconds:g}; it takes {MIN_SECONDS:g} or more")

  def _check_style(self) -> None:
    mixture(self.prompt), mixture(self.negative)
    if self.timeline and self.prompt:
      raise UserError("prompt and timeline are both set: give one of them")
    times = [time for time, _ in self.timeline]
    if any(not b > a for a, b in itertools.pairwise(times)) or any(not t >= 0 for t in times):
      raise UserError(f"the times of a timeline must rise from 0 on; they are {times}")
    if any(not mixture(prompt) for _, prompt in self.timeline):
      raise UserError("a timeline has an empty prompt")
    if not self.prompt and not self.timeline and self.audio is None:
      raise UserError("the prompt is empty: give a text, a clip, or audio to go on from")

  def _check_edit(self, length: float) -> None:
    if self.strength is not None and not 0 < self.strength <= 1:
      raise UserError(f"strength is {self.strength:g}; it takes more than 0 and at most 1")
    for begin, end in self.regions:
      if not 0 <= begin < end:
        raise UserError(f"region {begin:g}-{end:g}: it must end after it begins, from 0 on")
      # A rounded length in seconds is not an error: half a frame of grace.
      if end > length + 0.01:
        raise UserError(f"region {begin:g}-{end:g} lies outside the audio of {length:.2f} s")
    if self.mode != "continue" and self.seconds is not None:
      raise UserError("seconds does not go with changing audio: the result is as long as that")

  @property
  def mode(self) -> str:
    """Which of "generate", "continue", "inpaint" and "vary" this is."""
    if self.audio is None:
      return "generate"
    if self.regions:
      return "inpaint"
    return "continue" if self.strength is None else "vary"

  @property
  def n_samples(self) -> int:
    """Length of the result."""
    made = round((self.seconds or DEFAULT_SECONDS) * SAMPLE_RATE)
    if self.audio is None:
      return made
    return len(self.audio) + (made if self.mode == "continue" else 0)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to sample; holds for all items of a call.

  Only guidance on or off, the filters of the LM and `dtype` change the compiled program.

  Attributes:
    steps: denoising steps, 1 to 100.
    schedule: of angles, "linear" (the paper's) or "uniform".
    solver: "ddim", or "ab2" of second order (`diffusion.solve`).
    guidance_scale: of the DPD; 1 is none.
    guidance_interval: shares (low, high) of the noise angle pi/2 between which guidance acts; steps
      outside take one network row an item instead of two.
    guidance_rescale: in [0, 1], see `diffusion.guide`.
    temperature, top_k, top_p: of the LM; None switches a filter off.
    lm_guidance_scale: of the LM, away from the negative prompt or from "no style"; 1 is none.
    repetition_penalty: taken off a token's logit for each time it was drawn in the last
      `repetition_span` tokens; 0 is none.
    repetition_span: 25 tokens are a second.
    dtype: of computation, "float32" or "bfloat16".
  """

  steps: int = 10
  schedule: str = "linear"
  solver: str = "ddim"
  guidance_scale: float = 2.5
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
    for name, known in (("schedule", SCHEDULES), ("solver", SOLVERS), ("dtype", DTYPES)):
      if getattr(self, name) not in known:
        raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
    for name, low, high in (
      ("steps", 1, MAX_STEPS),
      ("guidance_scale", 0, 30),
      ("guidance_rescale", 0, 1),
      ("temperature", 0, 10),
      ("lm_guidance_scale", 0, 30),
      ("repetition_penalty", 0, 100),
      ("repetition_span", 1, 250),
    ):
      value = getattr(self, name)
      # Written so that NaN, which compares false with everything, is refused.
      if not low <= value <= high:
        raise UserError(f"{name} is {value:g}; it takes {low:g} to {high:g}")
    if self.top_k is not None and self.top_k < 1:
      raise UserError(f"top_k is {self.top_k}: it must be 1 or more, or None for all tokens")
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise UserError(f"top_p is {self.top_p}: it must lie in (0, 1], or be None for all tokens")
    low, high = self.guidance_interval
    if not 0 <= low < high <= 1:
      raise UserError(f"guidance_interval is {low:g} to {high:g}: it must rise within 0 to 1")
