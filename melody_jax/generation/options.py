"""What the options of sampling may be: every name and every range, once.

`Settings` and `Request` check themselves by this table, and so does the command with the keys of
configs/sample.py; the compiled program and the exported sampler read the names from here. Plain
Python and numpy: a bad option is told before JAX and the models are loaded.
"""

import dataclasses
import itertools
import numbers
from typing import Any

from melody_jax.config import DTYPES
from melody_jax.errors import UserError, check_choice, check_range
from melody_jax.generation.schedules import SCHEDULES

MAX_STEPS = 100
MAX_COUNT = 64  # pieces of one call of the command
MAX_SEED = 2**32 - 1
MIN_SECONDS = 1.0
MAX_SECONDS = 600.0  # of a file; a stream has no limit
MAX_PROMPT_CHARACTERS = 1000
MODES = ("generate", "continue", "inpaint", "vary", "stream", "reconstruct")
SOLVERS = ("ddim", "ab2")


@dataclasses.dataclass(frozen=True)
class Range:
  """Numbers from `low` to `high`, both included.

  Attributes:
    low: Smallest number.
    high: Largest number.
    unit: What is counted or measured, for the message.
    optional: Whether None, which switches the option off, is a value too.
    whole: Whether only whole numbers are taken.
  """

  low: float
  high: float
  unit: str
  optional: bool = False
  whole: bool = False


OPTIONS: dict[str, Range | tuple[str, ...]] = {
  "mode": MODES,
  "schedule": tuple(SCHEDULES),
  "solver": SOLVERS,
  "dtype": DTYPES,
  "steps": Range(1, MAX_STEPS, "denoising steps", whole=True),
  "seed": Range(0, MAX_SEED, "seeds", whole=True),
  "count": Range(1, MAX_COUNT, "pieces", whole=True),
  "seconds": Range(MIN_SECONDS, MAX_SECONDS, "seconds of audio"),
  # Beyond 30 every sample lies far outside what the models saw in training.
  "guidance_scale": Range(0, 30, "guidance"),
  "lm_guidance_scale": Range(0, 30, "guidance"),
  "guidance_low": Range(0, 1, "share of the noise angle"),
  "guidance_high": Range(0, 1, "share of the noise angle"),
  "guidance_rescale": Range(0, 1, "share"),
  # From 1e-3 on: at 0 nothing changes, which None says.
  "strength": Range(1e-3, 1, "share of noise", optional=True),
  "temperature": Range(0, 10, "temperatures"),
  "top_k": Range(1, 1_000_000, "tokens kept", optional=True, whole=True),
  "top_p": Range(1e-6, 1, "probability kept", optional=True),
  "repetition_penalty": Range(0, 100, "off a logit"),
  "repetition_span": Range(1, 250, "tokens", whole=True),  # the LM's window holds no more
  "loudness": Range(-70, 0, "LUFS"),  # -70 is where ITU-R BS.1770 hears silence
}


def check_option(option: str, value: Any, name: str = "") -> None:
  """Refuses a value that the option does not take.

  Args:
    option: Key of OPTIONS.
    value: Value that the user gave; None where the option may be off.
    name: Name that the user knows the option by; "" is its key.

  Raises:
    UserError: if the value is out of range or none of the known names.
  """
  takes, name = OPTIONS[option], name or option
  if isinstance(takes, tuple):
    check_choice(name, value, takes)
  elif not (value is None and takes.optional):
    check_range(name, value, takes.low, takes.high, takes.unit)
    # True is a whole number to Python, and a slip of the pen to everybody else.
    if takes.whole and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
      raise UserError(f"{name} is {value!r}; it takes whole numbers ({takes.unit})")


def check_interval(low: float, high: float, low_name: str, high_name: str) -> None:
  """Refuses a guidance interval that does not rise.

  Args:
    low: Share of the noise angle from which on guidance acts, in [0, 1].
    high: Share up to which it acts, in [0, 1].
    low_name: Name that the user knows the first by.
    high_name: Name that the user knows the second by.

  Raises:
    UserError: if a share is out of range, or the first is not under the second.
  """
  check_option("guidance_low", low, low_name)
  check_option("guidance_high", high, high_name)
  if low >= high:
    raise UserError(f"{low_name} is {low:g}; it must lie under {high_name}, {high:g}")


def check_times(name: str, times: list[float]) -> None:
  """Refuses times of a timeline that do not rise from 0 on.

  Args:
    name: What the times belong to, for the message.
    times: Seconds.

  Raises:
    UserError: if a time is negative, no number, or not after the one before it.
  """
  rising = all(b > a for a, b in itertools.pairwise(times))
  # "not below 0" would let NaN pass.
  if not rising or not all(0 <= t < float("inf") for t in times):
    listed = ", ".join(f"{t:g}" for t in times)
    raise UserError(f"{name} is {listed}; times must rise, from 0 on")


def check_region(begin: float, end: float) -> None:
  """Refuses a region, in seconds, that does not end after it begins, from 0 on.

  Raises:
    UserError: if it does not.
  """
  if not 0 <= begin < end:
    raise UserError(f"region {begin:g}-{end:g}: it must end after it begins, from 0 on")


def check_prompt_length(name: str, text: str) -> None:
  """Refuses a text that is longer than a prompt may be.

  Raises:
    UserError: if it has more than MAX_PROMPT_CHARACTERS characters.
  """
  if len(text) > MAX_PROMPT_CHARACTERS:
    raise UserError(f"{name} is {len(text)} characters long; the limit is {MAX_PROMPT_CHARACTERS}")
