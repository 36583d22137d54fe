"""Measures sampling stage by stage, and the baselines; returns plain dicts for JSON.

The row of a stage holds its floor (`benchmarks.floor`), the passes that the program counted while
it ran, and its cold and warm times in seconds.
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
from benchmarks.report import Row
from benchmarks.timing import Timing, median_of_runs, time_program
from melody_jax.generation import token_sampler
from melody_jax.generation.request import Settings

STAGES = ("lm", "dpd", "decoder")


@dataclasses.dataclass(frozen=True)
class BenchSettings:
  """How sampling is measured.

  Attributes:
    guidance_scale: Guidance scale of the DPD; 1 means no guidance.
    schedule: Name of the angle schedule.
    repeats: Largest number of warm calls.
    budget: Seconds after which no further warm call is started.
    profile: Directory for a profiler trace of one warm call of each stage; "" means no trace.
  """

  guidance_scale: float = Settings.guidance_scale
  schedule: str = "linear"
  repeats: int = 3
  budget: float = 20.0
  profile: str = ""


def _row(floor: floors.Floor, timing: Timing, passes: int, rate: float) -> Row:
  """Floor and measurement of one stage as a row.

  Raises:
    RuntimeError: if the program made another number of passes than the floor has.
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
  """Measures one generator on one device. `floor_of` and `measure` take the same arguments.

  Attributes:
    generator: The generator that is measured.
    device: Measured rates of the device.
    settings: Settings of the measurement.
  """

  def __init__(self, generator: Generator, device: floors.Device, settings: BenchSettings):
    self.generator, self.device, self.settings = generator, device, settings
    self._rows: dict[Any, tuple[Row, Any]] = {}  # LM and decoder do not depend on steps
    self._cascade_params: dict[str, Any] = {}  # made when first asked for

  def floor_of(self, stage: str, seconds: float, batch: int, steps: int) -> floors.Floor:
    """The floor of one stage; nothing needs to run for it.

    Args:
      stage: One of STAGES.
      seconds: Length of the piece.
      batch: Number of pieces.
      steps: Denoising steps.
    """
    piece = stages.PieceLayout.of(self.generator, seconds)
    passes = {
      "lm": lambda: floors.lm_passes(self.generator, piece, batch),
      "dpd": lambda: floors.dpd_passes(
        self.generator, piece, batch, steps, self.settings.guidance_scale
      ),
      "decoder": lambda: floors.decoder_passes(self.generator, piece, batch),
    }
    return self.device.floor(passes[stage](), self.generator.dtypes[stage])

  def _time(self, key: Any, function: Callable[..., Any], arguments: tuple[Any, ...], floor):
    """Row and output of a stage; a stage that was measured before is not run again."""
    if key not in self._rows:
      timing, (output, passes) = self._time_program("-".join(map(str, key)), function, arguments)
      rate = self.device.matmul(self.generator.dtypes[key[0]])
      self._rows[key] = (_row(floor, timing, int(passes), rate), output)
    return self._rows[key]

  def _time_program(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]):
    c = self.settings
    # A folder per program, or TensorBoard would show one run for all of them.
    trace = pathlib.Path(c.profile) / name if c.profile else ""
    return time_program(function, arguments, c.repeats, c.budget, trace)

  def measure(self, seconds: float, batch: int, steps: int) -> Row:
    """Measures all stages over a batch of pieces.

    Args:
      seconds: Length of a piece.
      batch: Number of pieces.
      steps: Denoising steps.

    Returns:
      A row: {"seconds", "batch", "steps", "stages", ...}.
    """
    g, c = self.generator, self.settings
    piece = stages.PieceLayout.of(g, seconds)
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
    """Measures the MusicLM-shaped cascade; its first stage is the generator's LM.

    Args:
      seconds: Length of a piece.
      batch: Number of pieces.

    Returns:
      A row: {"seconds", "batch", "stages", ...}.
    """
    g = self.generator
    piece = stages.PieceLayout.of(g, seconds)
    # As long as our piece, which ends with a chunk of a window: equal audio on both sides.
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
      sampler = token_sampler.make_token_sampler()
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
  """Row of a whole piece, whose stages run one after another.

  NFE counts the passes of the `counted` stages only (docs/spec.md, section 8).
  """
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
  shape: musicgen.Shape, seconds: float, batches: list[int], dtype: str, settings: BenchSettings
) -> list[Row]:
  """Measures MusicGen's architecture.

  Args:
    shape: Sizes of the architecture.
    seconds: Length of a piece.
    batches: Batch sizes.
    dtype: Dtype of computation.
    settings: Settings of the measurement.

  Returns:
    One row per batch size.

  Raises:
    musicgen.Unavailable: if it cannot run here.
  """
  device = musicgen.choose_device(jax.default_backend())
  model = musicgen.build(shape, device, dtype)
  rows = []
  for batch in batches:
    # A short call first warms up allocators, the choice of kernels, and thread pools.
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
  checkpoint: str, seconds: float, batch: int, steps: int, settings: BenchSettings
) -> Row:
  """Measures the public sampler as a whole, with its own count of passes.

  Args:
    checkpoint: Directory of a bundle.
    seconds: Length of a piece.
    batch: Number of pieces.
    steps: Denoising steps.
    settings: Settings of the measurement.

  Returns:
    A row without stages.
  """
  import melody_jax

  # The only place in the benchmarks that knows the public interface.
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


def is_out_of_memory(error: Exception) -> bool:
  """Whether an error of JAX or torch means that the memory of the device is too small."""
  text = str(error).lower()
  return "resource_exhausted" in text or "out of memory" in text
