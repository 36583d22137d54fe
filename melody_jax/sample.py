"""Text or a clip of music in, 24 kHz audio out.

    python -m melody_jax.sample --config=configs/sample.py --config.prompt="..." --config.out=x.wav

Writes the audio, a spectrogram (.png) and a report (.json) beside it, all three or none.
"""

import pathlib
import sys
import time
from typing import Any

import ml_collections
import numpy as np

from melody_jax import audio as audio_io
from melody_jax import cli, output_files
from melody_jax.errors import UserError

MAX_PROMPT_CHARACTERS = 1000
MIN_SECONDS, MAX_SECONDS = 1.0, 600.0
MAX_STEPS = 100
MODES = ("generate", "reconstruct")
SCHEDULES = ("linear", "uniform")  # those of diffusion.py, which imports JAX


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that cannot work, before anything is loaded.

  Raises:
    UserError: naming the key, its value and what it may be.
  """
  if config.mode not in MODES:
    raise UserError(f"config.mode is {config.mode!r}; it must be one of {', '.join(MODES)}")
  if config.mode == "generate":
    _check_prompts(config)
  elif not config.audio:
    raise UserError(
      'mode "reconstruct" needs --config.audio=FILE: the clip to pass through the codec'
    )
  if config.schedule not in SCHEDULES:
    raise UserError(
      f"config.schedule is {config.schedule!r}; it must be one of {', '.join(SCHEDULES)}"
    )
  _check_range(config, "seconds", MIN_SECONDS, MAX_SECONDS, "seconds of audio")
  _check_range(config, "steps", 1, MAX_STEPS, "denoising steps")
  _check_range(config, "seed", 0, 2**32 - 1, "seeds")
  _check_range(config, "guidance_scale", 0.0, 30.0, "guidance")
  _check_range(config, "loudness", -70.0, 0.0, "LUFS")
  _check_range(config.lm, "temperature", 0.0, 10.0, "temperatures", "lm.")
  _check_range(config.lm, "top_k", 0, 1_000_000, "tokens kept", "lm.")
  _check_range(config.lm, "top_p", 1e-6, 1.0, "probability kept", "lm.")
  _check_range(config.lm, "guidance_scale", 0.0, 30.0, "guidance", "lm.")
  # Sixteen-bit samples, and room for the picture and the report.
  size = int(config.seconds * audio_io.SAMPLE_RATE * 2) + (1 << 20)
  output_files.check_writable(config.out, tuple(audio_io.FORMATS), size)


def _check_range(config, key: str, low: float, high: float, what: str, prefix: str = "") -> None:
  value = config[key]
  # Written so that NaN, which compares false with everything, is refused.
  if not low <= value <= high:
    raise UserError(f"config.{prefix}{key} is {value:g}; it takes {low:g} to {high:g} ({what})")


def _check_prompts(config) -> None:
  prompt = config.prompt.strip()
  if prompt and config.music_prompt:
    raise UserError("config.prompt and config.music_prompt are both set: give one of them")
  if not prompt and not config.music_prompt:
    raise UserError('the prompt is empty: give --config.prompt="..." or --config.music_prompt=FILE')
  if len(prompt) > MAX_PROMPT_CHARACTERS:
    raise UserError(
      f"config.prompt is {len(prompt)} characters long; the limit is {MAX_PROMPT_CHARACTERS}"
    )


class Stages:
  """Progress on standard error: one line a stage, with the seconds that it took."""

  def __init__(self):
    self._start = time.monotonic()

  def __call__(self, message: str) -> None:
    print(f"[{time.monotonic() - self._start:5.1f} s] {message}", file=sys.stderr, flush=True)


def sample(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Makes one piece of audio and writes it, its spectrogram and its report.

  Args:
    config: the keys of configs/sample.py.

  Returns:
    the report.

  Raises:
    UserError: for settings, files or checkpoints that are no good; nothing is written then.
  """
  check(config)
  stages = Stages()
  # A bad clip is told apart before the models are loaded, which takes longer.
  clip = _read_clip(config, stages)

  from melody_jax.generation import pipeline, report

  pipeline.use_compilation_cache()
  stages(f"loading {config.checkpoint}")
  melody = pipeline.Pipeline.load(config.checkpoint, generates=config.mode == "generate")
  if config.mode == "reconstruct":
    made = melody.reconstruct(clip, stages)
  else:
    made = _generate(config, melody, clip, stages)

  wave = made.audio[0]
  if not np.isfinite(wave).all():
    raise UserError(
      f"{config.checkpoint} gave samples that are not finite: train or export it again"
    )
  if config.normalise:
    wave = audio_io.normalise_loudness(wave, melody.sample_rate, config.loudness)
  stages("writing")
  contents = _report(config, melody, made, wave)
  _write(config, wave, melody.sample_rate, report.to_json(contents))
  stages(
    f"{config.out}: {contents['seconds']:.1f} s of audio in {made.generation_seconds:.1f} s"
    f" ({contents['real_time_factor']:.1f}x real time), compiling {made.compile_seconds:.1f} s,"
    f" {made.nfe} network passes"
  )
  return contents


def _report(config, melody, made, wave: np.ndarray) -> dict[str, Any]:
  """What was asked for, what it cost, and what made it."""
  from melody_jax.generation import report

  seconds = len(wave) / melody.sample_rate
  return {
    "mode": config.mode,
    "prompt": config.prompt.strip() if config.mode == "generate" else "",
    "music_prompt": config.music_prompt,
    "audio": config.audio,
    "seed": config.seed,
    "seconds": seconds,
    "sample_rate": melody.sample_rate,
    "steps": config.steps,
    "schedule": config.schedule,
    "guidance_scale": config.guidance_scale,
    "lm": config.lm.to_dict(),
    "nfe": made.nfe,
    "compile_seconds": made.compile_seconds,
    "generation_seconds": made.generation_seconds,
    "real_time_factor": seconds / made.generation_seconds,  # over 1: faster than it plays
    "loudness_lufs": audio_io.loudness(wave, melody.sample_rate),
    "device": report.device_name(),
    "checkpoint": config.checkpoint,
    "checkpoint_sha256": melody.digest,
    "versions": report.versions(),
  }


def _read_clip(config, stages: Stages):
  path = config.audio if config.mode == "reconstruct" else config.music_prompt
  if not path:
    return None
  stages(f"reading {path}")
  longest = MAX_SECONDS if config.mode == "reconstruct" else audio_io.MAX_CLIP_SECONDS
  return audio_io.load_clip(path, max_seconds=longest)


def _generate(config, melody, clip, stages: Stages):
  from melody_jax.generation import pipeline

  settings = pipeline.Settings(
    steps=config.steps,
    schedule=config.schedule,
    guidance_scale=config.guidance_scale,
    temperature=config.lm.temperature,
    top_k=config.lm.top_k or None,
    top_p=config.lm.top_p if config.lm.top_p < 1 else None,
    lm_guidance_scale=config.lm.guidance_scale,
  )
  if clip is None:
    style = melody.style_of_text([config.prompt.strip()])
  else:
    style = melody.style_of_music(clip[None])
  return melody.generate(style, [config.seed], config.seconds, settings, stages)


def _write(config, wave, sample_rate: int, report: bytes) -> None:
  out = pathlib.Path(config.out)
  title = config.prompt.strip() or pathlib.Path(config.music_prompt or config.audio).name
  output_files.write_files(
    {
      out: audio_io.encode(wave, out.suffix.lower(), sample_rate),
      out.with_suffix(".png"): audio_io.spectrogram_png(wave, sample_rate, title),
      out.with_suffix(".json"): report,
    }
  )


def main(config: ml_collections.ConfigDict) -> None:
  """The command."""
  sample(config)


if __name__ == "__main__":
  cli.run(main)
