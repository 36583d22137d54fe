"""Measures sampling, stage by stage, and the baselines beside it; returns plain dicts for JSON.

A row of a stage has its floor (`benchmarks.floor`), the passes that the program counted while it
ran, and cold and warm seconds.
"""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import floor as floors
from benchmarks import stages
from benchmarks.baselines import cascade, musicgen
from benchmarks.generator import Generator
from benchmarks.timing import Timing, median_of_runs, time_program
from melody_jax.generation import token_sampler

Row = dict[str, Any]
STAGES = ("lm", "dpd", "decoder")


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is measured and how long.

  Attributes:
    guidance_scale: of the DPD; 1 is none.
    schedule: of angles.
    repeats: warm calls at most.
    budget: seconds after which no further warm call is started.
    profile: directory of a profiler trace of one warm call of each stage; empty: none.
  """

  guidance_scale: float = 2.5
  schedule: str = "linear"
  repeats: int = 3
  budget: float = 20.0
  profile: str = ""


def _row(floor: floors.Floor, timing: Timing, passes: int, rate: float) -> Row:
  """Floor and measurement of one stage.

  Raises:
    RuntimeError: if the passes that ran are not those that the floor is made of.
  """
  if passes != floor.passes:
    raise RuntimeError(
      f"the floor has {floor.passes} passes, the program made {passes}: benchmarks/floor.py no"
      " longer describes benchmarks/stages.py"
    )
  return {
    "passes": passes,
    "floor": dataclasses.asdict(floor),
    **dataclasses.asdict(timing),
    "share_of_floor": floor.seconds / timing.warm_seconds,
    "flops_per_second": floor.flops / timing.warm_seconds,
    "share_of_matmul_rate": floor.flops / timing.warm_seconds / rate,
  }


class Bench:
  """One generator on one device; `floor_of` and `measure` take the same grid.

  Attributes:
    generator: what is measured.
    device: its measured rates.
    settings: how.
  """

  def __init__(self, generator: Generator, device: floors.Device, settings: Settings):
    self.generator, self.device, self.settings = generator, device, settings
    self._rows: dict[Any, tuple[Row, Any]] = {}  # LM and decoder do not depend on steps
    self._cascade_params: dict[str, Any] = {}  # made when first asked for

  def floor_of(self, stage: str, seconds: float, batch: int, steps: int) -> floors.Floor:
    """The floor of one stage, before anything runs."""
    piece = stages.Piece.of(self.generator, seconds)
    passes = {
      "lm": lambda: floors.lm_passes(self.generator, piece, batch),
      "dpd": lambda: floors.dpd_passes(
        self.generator, piece, batch, steps, self.settings.guidance_scale
      ),
      "decoder": lambda: floors.decoder_passes(self.generator, piece, batch),
    }
    return self.device.floor(passes[stage](), self.generator.dtypes[stage])

  def _time(self, key: Any, function: Callable[..., Any], arguments: tuple[Any, ...], floor):
    """Row and output of a stage, from before if it was measured before."""
    if key not in self._rows:
      timing, (output, passes) = self._time_program("-".join(map(str, key)), function, arguments)
      rate = self.device.matmul(self.generator.dtypes[key[0]])
      self._rows[key] = (_row(floor, timing, int(passes), rate), output)
    return self._rows[key]

  def _time_program(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]):
    c = self.settings
    trace = pathlib.Path(c.profile) / name if c.profile else ""
    return time_program(function, arguments, c.repeats, c.budget, trace)

  def measure(self, seconds: float, batch: int, steps: int) -> Row:
    """Tokens, latents and audio of `batch` pieces: {"seconds", "batch", "steps", "stages", ...}."""
    g, c = self.generator, self.settings
    piece = stages.Piece.of(g, seconds)
    keys = jax.random.split(jax.random.key(0), batch)
    style = jnp.zeros((batch, g.lm.config.style_levels), jnp.int32)
    rows = {}
    rows["lm"], tokens = self._time(
      ("lm", seconds, batch), stages.tokens_program(g, piece), (g.params["lm"], keys, style),
      self.floor_of("lm", seconds, batch, steps),
    )  # fmt: skip
    program = stages.latents_program(g, piece, steps, c.guidance_scale, c.schedule)
    rows["dpd"], latents = self._time(
      ("dpd", seconds, batch, steps), program, (g.params["dpd"], keys[0], tokens),
      self.floor_of("dpd", seconds, batch, steps),
    )  # fmt: skip
    rows["decoder"], audio = self._time(
      ("decoder", seconds, batch), stages.audio_program(g, piece), (g.params["vae"], latents),
      self.floor_of("decoder", seconds, batch, steps),
    )  # fmt: skip
    return _summary(rows, audio.shape[1] / stages.SAMPLE_RATE, batch, ("lm", "dpd")) | {
      "asked_seconds": seconds, "steps": steps,
    }  # fmt: skip

  def measure_cascade(self, seconds: float, batch: int) -> Row:
    """The MusicLM-shaped cascade over as many seconds; its first stage is the generator's LM."""
    g = self.generator
    piece = stages.Piece.of(g, seconds)
    frames = piece.n_tokens * cascade.FRAME_RATE // cascade.SEMANTIC_RATE
    keys = jax.random.split(jax.random.key(0), batch)
    style = jnp.zeros((batch, cascade.STYLE_TOKENS), jnp.int32)
    row, tokens = self._time(
      ("lm", seconds, batch), stages.tokens_program(g, piece), (g.params["lm"], keys, style),
      self.floor_of("lm", seconds, batch, 1),
    )  # fmt: skip
    rows, dtype = {"semantic": row}, g.dtypes["lm"]
    for stage in (cascade.COARSE, cascade.FINE):
      model = stage.model_of(g.lm.config)
      if stage.name not in self._cascade_params:
        key = jax.random.key(stage.levels)
        self._cascade_params[stage.name] = cascade.init(stage, g.lm.config, key)
      params = self._cascade_params[stage.name]
      sampler = token_sampler.make_sampler()
      floor = self.device.floor(cascade.passes_of(stage, model, params, frames, batch), dtype)
      timing, (tokens, passes) = self._time_program(
        f"{stage.name}-{seconds}-{batch}",
        cascade.program(stage, model, frames, sampler),
        (params, keys, style, tokens),
      )
      rows[stage.name] = _row(floor, timing, int(passes), self.device.matmul(dtype))
    return _summary(rows, frames / cascade.FRAME_RATE, batch, tuple(rows)) | {
      "asked_seconds": seconds
    }


def _summary(rows: dict[str, Row], seconds: float, batch: int, counted: tuple[str, ...]) -> Row:
  """Stages run one after another; NFE is that of the `counted` ones (docs/spec.md, section 8)."""
  warm = sum(row["warm_seconds"] for row in rows.values())
  return {
    "seconds": seconds,
    "batch": batch,
    "stages": rows,
    "nfe": sum(rows[name]["passes"] for name in counted),
    "floor_seconds": sum(row["floor"]["seconds"] for row in rows.values()),
    "compile_seconds": sum(row["compile_seconds"] for row in rows.values()),
    "warm_seconds": warm,
    "audio_seconds_per_second": batch * seconds / warm,
  }


def measure_musicgen(
  shape: musicgen.Shape, seconds: float, batches: list[int], dtype: str, settings: Settings
) -> list[Row]:
  """MusicGen's architecture over so many seconds, a row a batch.

  Raises:
    musicgen.Unavailable: where it cannot run.
  """
  device = musicgen.choose_device(jax.default_backend())
  model = musicgen.build(shape, device, dtype)
  rows = []
  for batch in batches:
    # A short call first: allocators, kernels' choices, thread pools.
    cold = musicgen.generate(model, min(seconds, 0.2), batch)
    wall, runs, last = median_of_runs(
      lambda b=batch: musicgen.generate(model, seconds, b), settings.repeats, settings.budget
    )
    rows.append({
      "seconds": last.seconds, "batch": batch, "nfe": last.passes, "warm_seconds": wall,
      "runs": runs, "codec_seconds": last.codec_seconds, "cold_short_call": cold.wall_seconds,
      "parameters": sum(p.numel() for p in model.decoder.parameters()), "device": device,
      "dtype": dtype, "audio_seconds_per_second": batch * last.seconds / wall,
    })  # fmt: skip
  return rows


def measure_sampler(
  checkpoint: str, seconds: float, batch: int, steps: int, settings: Settings
) -> Row:
  """The same through the sampler that users call, whole, with its own count of passes.

  The only place that knows its interface.
  """
  import melody_jax

  sampler = melody_jax.Melody.load(checkpoint)
  requests = [melody_jax.Request("piano", seconds=seconds, seed=i) for i in range(batch)]
  asked = melody_jax.Settings(
    steps=steps,
    schedule=settings.schedule,
    guidance_scale=settings.guidance_scale,
    lm_guidance_scale=1.0,  # as the stages that it stands beside
  )
  cold = sampler.generate(requests, asked)
  warm, runs, made = median_of_runs(
    lambda: sampler.generate(requests, asked), settings.repeats, settings.budget
  )
  made_seconds = sum(len(music.audio) for music in made) / sampler.sample_rate
  return {
    "seconds": made_seconds / batch, "batch": batch, "steps": steps,
    "nfe": made[0].nfe, "compile_seconds": cold[0].compile_seconds, "warm_seconds": warm,
    "runs": runs, "audio_seconds_per_second": made_seconds / warm,
  }  # fmt: skip


def out_of_memory(error: Exception) -> bool:
  """Whether an error of JAX or torch means that the device has too little memory."""
  text = str(error).lower()
  return "resource_exhausted" in text or "out of memory" in text
