"""The JSON report that lies beside every sample: what was asked, what it cost, what ran it."""

import json
import math
from typing import Any

from melody_jax import provenance
from melody_jax.generation.config import texts_of


def asked(config) -> dict[str, Any]:
  """The part of a report that says what was asked for: keys of configs/sample.py."""
  generates = config.mode != "reconstruct"
  return {
    "mode": config.mode,
    "prompt": config.prompt.strip() if generates else "",
    "music_prompt": config.music_prompt if generates else "",
    "weights": config.weights,
    "times": config.times,
    "negative_prompt": config.negative_prompt.strip() if generates else "",
    "audio": config.audio,
    "regions": config.regions,
    "strength": config.strength,
    "seed": config.seed,
    "steps": config.steps,
    "schedule": config.schedule,
    "solver": config.solver,
    "guidance_scale": config.guidance_scale,
    "guidance_interval": f"{config.guidance_low:g} to {config.guidance_high:g}",
    "guidance_rescale": config.guidance_rescale,
    "dtype": config.dtype,
    "lm": config.lm.to_dict(),
  }


def unheard(config, melody) -> dict[str, list[str]]:
  """The part of a report that says what of the texts the models cannot hear."""
  texts = [*texts_of(config.prompt), config.negative_prompt]
  return {"not_heard": melody.styles.unheard(texts) if any(map(str.strip, texts)) else []}


def made_by(config, melody) -> dict[str, Any]:
  """The part of a report that says what made it."""
  return {
    "device": provenance.device_name(),
    "checkpoint": config.checkpoint,
    "checkpoint_sha256": melody.digest,
    "versions": provenance.versions(),
  }


def to_json(report: dict[str, Any]) -> bytes:
  """The report as indented UTF-8 JSON; numbers that JSON lacks become null."""

  def clean(value: Any) -> Any:
    if isinstance(value, dict):
      return {k: clean(v) for k, v in value.items()}
    if isinstance(value, float):
      return round(value, 4) if math.isfinite(value) else None
    return value

  return (json.dumps(clean(report), indent=2, ensure_ascii=False) + "\n").encode("utf-8")
