"""The keys of configs/sample.py: checked before anything is loaded, and turned into requests."""

from collections.abc import Callable
import dataclasses
import itertools
from typing import Any

import ml_collections
import numpy as np

from melody_jax import audio_io, output_files
from melody_jax.errors import UserError
from melody_jax.generation.request import (
  DTYPES,
  MAX_PROMPT_CHARACTERS,
  MAX_STEPS,
  MIN_SECONDS,
  SCHEDULES,
  SOLVERS,
  Prompt,
  Request,
  Settings,
)

MAX_SECONDS = 600.0  # of a file; a stream has no limit
MAX_COUNT = 64
MODES = ("generate", "continue", "inpaint", "vary", "stream", "reconstruct")
_CHANGES_AUDIO = ("continue", "inpaint", "vary", "reconstruct")
STDOUT = "-"


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that cannot work, before anything is loaded.

  Raises:
    UserError: naming the key, its value and what it may be.
  """
  _check_choice(config, "mode", MODES)
  if config.mode in _CHANGES_AUDIO and not config.audio:
    raise UserError(
      f'mode "{config.mode}" needs --config.audio=FILE: the clip to {config.mode}'
      + (" by the codec" if config.mode == "reconstruct" else "")
    )
  if config.mode == "generate" and config.audio:
    raise UserError(
      'config.audio goes with the modes "continue", "inpaint", "vary", "stream" and "reconstruct"'
    )
  _check_prompts(config)
  _check_edit(config)
  _check_numbers(config)
  if config.out == STDOUT:
    if config.mode != "stream":
      raise UserError('config.out is "-", which only goes with mode "stream"')
    return
  # Sixteen-bit samples, and room for the picture and the report.
  size = int(config.seconds * audio_io.SAMPLE_RATE * 2) * config.count + (1 << 20)
  output_files.check_writable(config.out, tuple(audio_io.FORMATS), size)


def _check_choice(config, key: str, known: tuple[str, ...]) -> None:
  if config[key] not in known:
    raise UserError(f"config.{key} is {config[key]!r}; it must be one of {', '.join(known)}")


def _check_range(config, key: str, low: float, high: float, what: str, prefix: str = "") -> None:
  value = config[key]
  # Written so that NaN, which compares false with everything, is refused.
  if not low <= value <= high:
    raise UserError(f"config.{prefix}{key} is {value:g}; it takes {low:g} to {high:g} ({what})")


def _check_numbers(config) -> None:
  for key, known in (("schedule", SCHEDULES), ("solver", SOLVERS), ("dtype", DTYPES)):
    _check_choice(config, key, known)
  if config.mode != "stream":
    _check_range(config, "seconds", MIN_SECONDS, MAX_SECONDS, "seconds of audio")
  elif not (config.seconds == 0 or config.seconds >= MIN_SECONDS):
    raise UserError(f"config.seconds is {config.seconds:g}; a stream takes 1 or more, or 0: no end")
  for key, low, high, what in (
    ("steps", 1, MAX_STEPS, "denoising steps"),
    ("seed", 0, 2**32 - MAX_COUNT, "seeds"),
    ("count", 1, MAX_COUNT, "pieces"),
    ("guidance_scale", 0.0, 30.0, "guidance"),
    ("guidance_low", 0.0, 1.0, "share of the noise angle"),
    ("guidance_high", 0.0, 1.0, "share of the noise angle"),
    ("guidance_rescale", 0.0, 1.0, "share"),
    ("strength", 0.0, 1.0, "share of noise"),
    ("loudness", -70.0, 0.0, "LUFS"),
  ):
    _check_range(config, key, low, high, what)
  for key, low, high, what in (
    ("temperature", 0.0, 10.0, "temperatures"),
    ("top_k", 0, 1_000_000, "tokens kept"),
    ("top_p", 1e-6, 1.0, "probability kept"),
    ("guidance_scale", 0.0, 30.0, "guidance"),
    ("repetition_penalty", 0.0, 100.0, "off a logit"),
    ("repetition_span", 1, 250, "tokens"),
  ):
    _check_range(config.lm, key, low, high, what, "lm.")
  if config.guidance_low >= config.guidance_high:
    raise UserError(
      f"config.guidance_low is {config.guidance_low:g}; it must lie under config.guidance_high,"
      f" {config.guidance_high:g}"
    )
  if config.count > 1 and config.mode in ("stream", "reconstruct"):
    raise UserError(f'config.count is {config.count}; mode "{config.mode}" makes one piece')


def _texts(config) -> list[str]:
  return [text.strip() for text in config.prompt.split("|") if text.strip()]


def _check_prompts(config) -> None:
  texts = _texts(config)
  for text in texts:
    if len(text) > MAX_PROMPT_CHARACTERS:
      raise UserError(
        f"config.prompt is {len(text)} characters long; the limit is {MAX_PROMPT_CHARACTERS}"
      )
  if config.mode == "reconstruct":
    return
  has_prompt = bool(texts or config.music_prompt)
  if not has_prompt and not config.audio and not config.stream.resume:
    raise UserError('the prompt is empty: give --config.prompt="..." or --config.music_prompt=FILE')
  n_prompts = len(texts) + bool(config.music_prompt)
  weights = _numbers(config, "weights")
  if weights and len(weights) != n_prompts:
    raise UserError(
      f"config.weights has {len(weights)} numbers for {n_prompts} prompts: give one each, texts"
      " first, then the music prompt"
    )
  times = _numbers(config, "times")
  if times and (weights or config.music_prompt):
    raise UserError(
      "config.times is set: the texts follow each other then, so config.weights and"
      " config.music_prompt must be left out"
    )
  if times and len(times) != len(texts):
    raise UserError(f"config.times has {len(times)} numbers for {len(texts)} texts: give one each")
  if any(not b > a for a, b in itertools.pairwise(times)) or any(not t >= 0 for t in times):
    raise UserError(f"config.times is {config.times!r}; times must rise, from 0 on")
  if config.negative_prompt.strip() and config.lm.guidance_scale == 1:
    raise UserError(
      "config.negative_prompt works through config.lm.guidance_scale: set that above 1, e.g. 2"
    )


def _check_edit(config) -> None:
  if config.mode == "inpaint" and not config.regions.strip():
    raise UserError('mode "inpaint" needs --config.regions="begin-end": seconds to make anew')
  if config.mode != "inpaint" and config.regions.strip():
    raise UserError(f'config.regions goes with mode "inpaint", not "{config.mode}"')
  if config.mode not in ("inpaint", "vary") and config.strength:
    raise UserError(
      f'config.strength goes with the modes "vary" and "inpaint", not "{config.mode}"'
    )
  if config.mode == "vary" and not config.strength:
    raise UserError('mode "vary" needs --config.strength: more than 0, at most 1')
  if config.mode != "stream" and (config.stream.save or config.stream.resume):
    raise UserError('config.stream.save and config.stream.resume go with mode "stream"')
  if config.stream.resume and config.audio:
    raise UserError("config.audio and config.stream.resume are both set: give one of them")
  _regions(config)


def _numbers(config, key: str) -> list[float]:
  """A key's comma-separated numbers."""
  try:
    return [float(part) for part in config[key].split(",") if part.strip()]
  except ValueError as e:
    raise UserError(
      f"config.{key} is {config[key]!r}; it takes numbers with commas, as in 0,20"
    ) from e


def _regions(config) -> list[tuple[float, float]]:
  """config.regions as (begin, end) pairs; they must rise within themselves."""
  regions = []
  for part in config.regions.split(","):
    if not part.strip():
      continue
    try:
      begin, end = (float(x) for x in part.split("-"))
    except ValueError as e:
      raise UserError(
        f"config.regions is {config.regions!r}; it takes seconds, as in 3.5-5, 8-10"
      ) from e
    if not 0 <= begin < end:
      raise UserError(f"config.regions: {part.strip()} must end after it begins, from 0 on")
    regions.append((begin, end))
  return regions


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
  """The audio files of a config, read: float32 [samples] at 24 kHz, or None."""

  audio: np.ndarray | None
  music_prompt: np.ndarray | None


def read_clips(config, say: Callable[[str], None]) -> Clips:
  """Reads what the config names.

  Raises:
    UserError: for files that are missing, no audio, silent, too short or too long.
  """

  def read(path: str, longest: float) -> np.ndarray | None:
    if not path:
      return None
    say(f"reading {path}")
    return audio_io.load_clip(path, max_seconds=longest)

  music_prompt = "" if config.mode == "reconstruct" else config.music_prompt
  return Clips(read(config.audio, MAX_SECONDS), read(music_prompt, audio_io.MAX_CLIP_SECONDS))


def prompt_of(config, clips: Clips) -> dict[str, Any]:
  """The fields `prompt` and `timeline` of a Request."""
  texts, times = _texts(config), _numbers(config, "times")
  if times:
    return {"timeline": tuple(zip(times, texts, strict=True))}
  weights = _numbers(config, "weights") or [1.0] * (len(texts) + 1)
  prompts = [Prompt(text, weight=weight) for text, weight in zip(texts, weights, strict=False)]
  if clips.music_prompt is not None:
    prompts.append(Prompt(audio=clips.music_prompt, weight=weights[len(texts)]))
  return {"prompt": tuple(prompts)}


def requests_of(config, clips: Clips) -> list[Request]:
  """One request a seed.

  Raises:
    UserError: for regions outside the audio.
  """
  fields = prompt_of(config, clips)
  if config.mode in ("generate", "continue"):
    fields["seconds"] = config.seconds
  if config.mode in ("inpaint", "vary"):
    fields |= {"regions": _regions(config), "strength": config.strength or None}
  return [
    Request(negative=config.negative_prompt.strip(), audio=clips.audio, seed=seed, **fields)
    for seed in range(config.seed, config.seed + config.count)
  ]


def settings_of(config) -> Settings:
  """How to sample."""
  return Settings(
    steps=config.steps,
    schedule=config.schedule,
    solver=config.solver,
    guidance_scale=config.guidance_scale,
    guidance_interval=(config.guidance_low, config.guidance_high),
    guidance_rescale=config.guidance_rescale,
    temperature=config.lm.temperature,
    top_k=config.lm.top_k or None,
    top_p=config.lm.top_p if config.lm.top_p < 1 else None,
    lm_guidance_scale=config.lm.guidance_scale,
    repetition_penalty=config.lm.repetition_penalty,
    repetition_span=config.lm.repetition_span,
    dtype=config.dtype,
  )
