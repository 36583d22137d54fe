"""The keys of configs/sample.py: checked before anything is loaded, and turned into requests."""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import ml_collections
import numpy as np

from melody_jax import audio_io, output_files
from melody_jax.command_line.streams import check_stdout
from melody_jax.config import listed, seconds_of
from melody_jax.errors import UserError
from melody_jax.generation import prompt_list
from melody_jax.generation.options import (
  MAX_SECONDS,
  MAX_SEED,
  MIN_SECONDS,
  check_interval,
  check_option,
  check_prompt_length,
  check_region,
  check_times,
)
from melody_jax.generation.prompt_list import Piece
from melody_jax.generation.request import Prompt, Request, Settings
from melody_jax.progress import Progress

_CHANGES_AUDIO = ("continue", "inpaint", "vary", "reconstruct")
STDOUT = "-"

# Field of `Settings` -> key of configs/sample.py.
SETTINGS_KEYS = {
  "steps": "steps",
  "schedule": "schedule",
  "solver": "solver",
  "guidance_scale": "guidance_scale",
  "guidance_rescale": "guidance_rescale",
  "dtype": "dtype",
  "temperature": "lm.temperature",
  "top_k": "lm.top_k",
  "top_p": "lm.top_p",
  "lm_guidance_scale": "lm.guidance_scale",
  "repetition_penalty": "lm.repetition_penalty",
  "repetition_span": "lm.repetition_span",
}
# A key of the command line has one type and so cannot be None: these values switch it off.
_OFF = {"top_k": 0, "top_p": 1.0, "strength": 0.0}


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that cannot work, and files that cannot be written, before any work.

  Raises:
    UserError: naming the key, its value and what it may be, or the file.
  """
  check_settings(config)
  if config.out == STDOUT:
    if config.mode != "stream":
      raise UserError('config.out is "-", which only goes with mode "stream"')
    check_stdout("the stream")
  elif pathlib.Path(config.out).suffix.lower() not in audio_io.FORMATS:
    raise UserError(f"{config.out!r} must end in one of {', '.join(audio_io.FORMATS)}")
  # Sixteen-bit samples, and room for the picture and the report.
  pieces = prompt_list.pieces(config)
  size = int(config.seconds * audio_io.SAMPLE_RATE * 2) * len(pieces) + (1 << 20)
  output_files.check_outputs(
    outputs_of(config, pieces),
    (config.audio, config.music_prompt, config.prompts, config.stream.resume),
    config.overwrite,
    "allow it with --config.overwrite=True",
    size,
  )


def outputs_of(config: ml_collections.ConfigDict, pieces: Sequence[Piece]) -> list[pathlib.Path]:
  """All files that a command writes.

  Args:
    config: Keys of configs/sample.py.
    pieces: Pieces that the config asks for.
  """
  beside = (".json",) if config.mode == "stream" else (".png", ".json")
  audio = [] if config.out == STDOUT else [pathlib.Path(piece.out) for piece in pieces]
  paths = [p for path in audio for p in (path, *map(path.with_suffix, beside))]
  return paths + ([pathlib.Path(config.stream.save)] if config.stream.save else [])


def check_settings(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that cannot work; files are not looked at.

  Raises:
    UserError: naming the key, its value and what it may be.
  """
  check_option("mode", config.mode, "config.mode")
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


def _value(config: ml_collections.ConfigDict, option: str, key: str) -> Any:
  """The value of a dotted key as the table of options has it: None for a filter that is off."""
  value = functools.reduce(lambda node, part: node[part], key.split("."), config)
  return None if option in _OFF and value == _OFF[option] else value


def _check_numbers(config) -> None:
  for option, key in {**SETTINGS_KEYS, **{k: k for k in ("count", "strength", "loudness")}}.items():
    check_option(option, _value(config, option, key), f"config.{key}")
  check_interval(
    config.guidance_low, config.guidance_high, "config.guidance_low", "config.guidance_high"
  )
  # The last seed of a batch has to be one as well.
  check_option("seed", config.seed, "config.seed")
  if config.seed + config.count - 1 > MAX_SEED:
    raise UserError(
      f"config.seed is {config.seed}; with config.count {config.count} it takes 0 to"
      f" {MAX_SEED - config.count + 1}"
    )
  if config.mode != "stream":
    check_option("seconds", config.seconds, "config.seconds")
  elif not (config.seconds == 0 or MIN_SECONDS <= config.seconds < float("inf")):
    raise UserError(f"config.seconds is {config.seconds:g}; a stream takes 1 or more, or 0: no end")
  if config.count > 1 and config.mode in ("stream", "reconstruct"):
    raise UserError(f'config.count is {config.count}; mode "{config.mode}" makes one piece')


def texts_of(prompt: str) -> list[str]:
  """The texts of a prompt: "this | that" are two."""
  return [text.strip() for text in prompt.split("|") if text.strip()]


def _check_prompts(config) -> None:
  texts = texts_of(config.prompt)
  for text in texts:
    check_prompt_length("config.prompt", text)
  if config.prompts:
    _check_prompt_file(config)
    return
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
  check_times("config.times", times)
  _check_negative(config)


def _check_negative(config) -> None:
  check_prompt_length("config.negative_prompt", config.negative_prompt.strip())
  if config.negative_prompt.strip() and config.lm.guidance_scale == 1:
    raise UserError(
      "config.negative_prompt works through config.lm.guidance_scale: set that above 1, e.g. 2"
    )


def _check_prompt_file(config) -> None:
  if config.mode in ("stream", "reconstruct"):
    raise UserError(f'config.prompts makes several pieces; mode "{config.mode}" makes one')
  if config.count != 1:
    raise UserError("config.prompts makes one piece a line: leave out config.count")
  for key in ("prompt", "weights", "times"):
    if config[key].strip():
      raise UserError(f"config.prompts and config.{key} are both set: give one of them")
  for piece in prompt_list.pieces(config):
    check_option("seed", piece.seed, "config.seed with config.prompts")
  _check_negative(config)


def _check_edit(config) -> None:
  if config.mode == "inpaint" and not config.regions.strip():
    raise UserError('mode "inpaint" needs --config.regions="begin-end": seconds to make anew')
  # Refused rather than ignored: who gives regions means them.
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
  for key in ("times", "negative_prompt"):
    if config.stream.resume and config[key].strip():
      raise UserError(
        f"config.{key} and config.stream.resume are both set: a saved stream goes on with its own;"
        f" leave out config.{key}"
      )
  _regions(config)


def _numbers(config, key: str) -> list[float]:
  """A key's comma-separated numbers."""
  try:
    return [(seconds_of if key == "times" else float)(part) for part in listed(config[key])]
  except ValueError as e:
    takes = "times" if key == "times" else "numbers"
    example = "0, 20, 1:30" if key == "times" else "0.7, 0.3"
    raise UserError(
      f"config.{key} is {config[key]!r}; it takes {takes} with commas, as in {example}"
    ) from e


def _regions(config) -> list[tuple[float, float]]:
  """config.regions as (begin, end) pairs; they must rise within themselves."""
  regions = []
  for part in listed(config.regions):
    try:
      begin, end = (seconds_of(x) for x in part.split("-"))
    except ValueError as e:
      raise UserError(
        f"config.regions is {config.regions!r}; it takes seconds or minutes:seconds, as in"
        " 3.5-5, 1:05-1:20"
      ) from e
    check_region(begin, end)
    regions.append((begin, end))
  return regions


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
  """The audio files of a config, read.

  Attributes:
    audio: config.audio as float32 [samples] at 24 kHz; None where it names no file.
    music_prompt: config.music_prompt, likewise.
  """

  audio: np.ndarray | None
  music_prompt: np.ndarray | None


def read_clips(config: ml_collections.ConfigDict, progress: Progress) -> Clips:
  """Reads the audio files that the config names.

  Args:
    config: Keys of configs/sample.py.
    progress: Told what is read, a line at a time.

  Raises:
    UserError: if a file is missing, no audio, silent, too short or too long.
  """

  def read(path: str, longest: float) -> np.ndarray | None:
    if not path:
      return None
    progress(f"reading {path}")
    return audio_io.load_clip(path, max_seconds=longest)

  # The codec alone hears no style, so the file is not even read.
  music_prompt = "" if config.mode == "reconstruct" else config.music_prompt
  return Clips(read(config.audio, MAX_SECONDS), read(music_prompt, audio_io.MAX_CLIP_SECONDS))


def prompt_of(config: ml_collections.ConfigDict, clips: Clips, prompt: str) -> dict[str, Any]:
  """The field `prompt` of a `Request`, or `timeline` where config.times is set.

  Args:
    config: Keys of configs/sample.py.
    clips: Its audio files.
    prompt: The texts, in the place of config.prompt.
  """
  texts, times = texts_of(prompt), _numbers(config, "times")
  if times:
    return {"timeline": tuple(zip(times, texts, strict=True))}
  # One more than there are texts: the last belongs to the music prompt, if there is one.
  weights = _numbers(config, "weights") or [1.0] * (len(texts) + 1)
  prompts = [Prompt(text, weight=weight) for text, weight in zip(texts, weights, strict=False)]
  if clips.music_prompt is not None:
    prompts.append(Prompt(audio=clips.music_prompt, weight=weights[len(texts)]))
  return {"prompt": tuple(prompts)}


def requests_of(
  config: ml_collections.ConfigDict, clips: Clips, pieces: Sequence[Piece]
) -> list[Request]:
  """One request for each piece.

  Args:
    config: Keys of configs/sample.py.
    clips: Its audio files.
    pieces: What it asks for.

  Raises:
    UserError: if a region lies outside the audio.
  """
  fields: dict[str, Any] = {"negative": config.negative_prompt.strip(), "audio": clips.audio}
  if config.mode in ("generate", "continue"):
    fields["seconds"] = config.seconds
  if config.mode in ("inpaint", "vary"):
    fields |= {"regions": _regions(config), "strength": config.strength or None}
  prompt = functools.cache(lambda text: prompt_of(config, clips, text))
  return [Request(seed=piece.seed, **prompt(piece.prompt), **fields) for piece in pieces]


def settings_of(config: ml_collections.ConfigDict) -> Settings:
  """How to sample.

  Raises:
    UserError: if a value is out of its range.
  """
  fields = {option: _value(config, option, key) for option, key in SETTINGS_KEYS.items()}
  return Settings(guidance_interval=(config.guidance_low, config.guidance_high), **fields)
