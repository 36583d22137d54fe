r"""Measures the speed of sampling on this device, beside its floor and two baselines.

    python -m benchmarks.sample --preset=nano --out=docs/measured/nano
    python -m benchmarks.sample --preset=paper --dtype=bfloat16 --batches=1,16 --steps=20 \
        --profile=out/profile --out=out/paper

First it prints the floor: operations, bytes of weights and caches, and the time that they need at
the matmul rate and memory bandwidth measured on this device. Then it measures each stage (LM, DPD,
decoder) cold and warm: all batches and steps at the first of --seconds, further lengths at the
first batch and the last steps. Passes (NFE) are counted by the loops that make them. Then come the
baselines: a MusicLM-shaped cascade of language models in the code of our LM, and MusicGen's
architecture at its `small` shape in transformers. docs/benchmarks.md explains the result.
"""

import argparse
import dataclasses
import pathlib
import shlex
import sys
from typing import Any

import jax

from benchmarks import report
from benchmarks.baselines import musicgen
from benchmarks.device import hardware_name
from benchmarks.floor import Device
from benchmarks.generator import Generator, load_generator
from benchmarks.measure import (
  STAGES,
  Bench,
  BenchSettings,
  is_out_of_memory,
  measure_musicgen,
  measure_sampler,
)
from melody_jax.command_line import flags
from melody_jax.command_line.flags import Parser, at_least_one
from melody_jax.config import DTYPES
from melody_jax.errors import check_range
from melody_jax.generation.request import Settings
from melody_jax.output_files import check_new_folder
from melody_jax.places.paths import expand
from melody_jax.provenance import versions

BASELINES = ("cascade", "musicgen")


def numbers(kind: type) -> Any:
  """Makes a parser of lists such as "1,4,16" into positive numbers of a type."""

  def parse(text: str) -> list[Any]:
    try:
      values = [kind(part) for part in text.split(",") if part]
    except ValueError:
      values = []
    if not values or min(values) <= 0:
      raise argparse.ArgumentTypeError(f"{text!r}: one or more positive numbers, comma-separated")
    return values

  return parse


def parser() -> Parser:
  """The command's options."""
  p = Parser(__doc__.split("\n")[0] if __doc__ else None)
  p.add_argument("--preset", default="nano", choices=("tiny", "nano", "paper"))
  p.add_argument(
    "--checkpoint", default="", type=expand, help="bundle to measure; default: random weights"
  )
  p.add_argument("--batches", type=numbers(int), default=[1, 4, 16])
  p.add_argument("--steps", type=numbers(int), default=[5, 10, 20])
  p.add_argument("--seconds", type=numbers(float), default=[10.0, 30.0])
  p.add_argument(
    "--dtype",
    default="",
    choices=("", *DTYPES),
    help="dtype of computation and weights; default: the configs'",
  )
  p.add_argument(
    "--guidance_scale",
    type=float,
    default=Settings.guidance_scale,
    help="guidance scale of the DPD; 1 is none",
  )
  p.add_argument("--schedule", default="linear", choices=("linear", "uniform"))
  p.add_argument("--baselines", default="cascade,musicgen", help="empty: none")
  p.add_argument(
    "--baseline_batches", type=numbers(int), default=None, help="default: those of --batches"
  )
  p.add_argument(
    "--cascade_seconds", type=numbers(float), default=None, help="default: those of --seconds"
  )
  p.add_argument(
    "--musicgen_seconds", type=float, default=0.0, help="default: the first of --seconds"
  )
  p.add_argument("--repeats", type=at_least_one, default=3, help="warm calls at most")
  p.add_argument("--budget", type=float, default=20.0, help="seconds of warm calls of a program")
  p.add_argument(
    "--profile", default="", type=expand, help="directory for profiler traces of every stage"
  )
  p.add_argument(
    "--out", default="", type=expand, help="directory for sample.json, sample.md and sample.png"
  )
  return p


def empty_result(arguments: argparse.Namespace, generator: Generator, device: Device) -> Any:
  """Hardware, versions, settings, and no measurement yet."""
  parameters = {
    name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in generator.params.items()
  }
  preset = "the checkpoint's sizes" if arguments.checkpoint else arguments.preset
  return {
    "command": shlex.join(["python", "-m", "benchmarks.sample", *sys.argv[1:]]),
    "device": hardware_name(), "versions": versions(), "preset": preset,
    "weights": generator.origin, "parameters": parameters, "dtypes": generator.dtypes,
    "guidance_scale": arguments.guidance_scale, "schedule": arguments.schedule,
    "grid_seconds": arguments.seconds[0],
    # Rates are measured when a floor needs them: these two dicts fill up during the run.
    "matmul_rates": device.matmul_rates, "bandwidths": device.bandwidths,
    "floors": [], "melody": [], "sampler": [], "cascade": [], "musicgen": [],
  }  # fmt: skip


def grid(arguments: argparse.Namespace) -> list[tuple[float, int, int]]:
  """Points to measure as (seconds, batch, steps); the one that is plotted by stage comes first."""
  first, *longer = arguments.seconds
  last_steps = arguments.steps[-1]
  points = [(first, batch, steps) for batch in arguments.batches for steps in arguments.steps]
  points += [(seconds, arguments.batches[0], last_steps) for seconds in longer]
  # The first row of the result is the one that `report.plot` draws stage by stage.
  return sorted(points, key=lambda p: p != (first, arguments.batches[0], last_steps))


def attempt(function: Any, arguments: tuple[Any, ...], place: dict[str, Any]) -> dict[str, Any]:
  """Calls a function that measures a row.

  Returns:
    The row; where the memory of the device is too small, `place` with the reason under "failed".
  """
  try:
    return function(*arguments)
  except (RuntimeError, MemoryError) as e:
    # Only memory is expected to run out on a grid of sizes; any other error is a bug.
    if not is_out_of_memory(e):
      raise
    return place | {"failed": "out of memory"}


def run(arguments: argparse.Namespace, device: Device, shape: musicgen.Shape) -> dict[str, Any]:
  """Measures everything that was asked for, prints it, and writes it after every part.

  Args:
    arguments: Parsed command line, see `parser`.
    device: Rates of the device.
    shape: Sizes of MusicGen's architecture.

  Returns:
    All results, as written to sample.json.
  """
  generator = load_generator(arguments.preset, arguments.checkpoint, arguments.dtype)
  settings = BenchSettings(
    arguments.guidance_scale, arguments.schedule, arguments.repeats, arguments.budget,
    arguments.profile,
  )  # fmt: skip
  bench = Bench(generator, device, settings)
  result = empty_result(arguments, generator, device)
  points = grid(arguments)
  baselines = [name for name in arguments.baselines.split(",") if name]

  def save() -> None:
    # CPUs report no statistics.
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
      result["peak_memory_gb"] = stats["peak_bytes_in_use"] / 1e9
    if arguments.out:
      report.write(result, pathlib.Path(arguments.out))

  _floors(bench, points, result)
  print("\nMeasured", flush=True)
  for seconds, batch, steps in points:
    place = {"asked_seconds": seconds, "batch": batch, "steps": steps}
    row = attempt(bench.measure, (seconds, batch, steps), place)
    result["melody"].append(row)
    _say(row, report.STAGE_HEADER, report.stage_rows)
    save()
  if arguments.checkpoint:
    row = measure_sampler(arguments.checkpoint, *points[0], settings)
    result["sampler"].append(row)
    _say(row, report.SPEED_HEADER, lambda r: report.speed_rows("the public sampler", [r]))
  batches = arguments.baseline_batches or arguments.batches
  if "cascade" in baselines:
    print("\nMusicLM-shaped cascade", flush=True)
    first, *longer = arguments.cascade_seconds or arguments.seconds
    for seconds, batch in [(first, b) for b in batches] + [(s, batches[0]) for s in longer]:
      place = {"asked_seconds": seconds, "batch": batch}
      row = attempt(bench.measure_cascade, (seconds, batch), place)
      result["cascade"].append(row)
      _say(row, report.STAGE_HEADER, report.stage_rows)
      save()
    print("\n" + report.text_columns(report.COMPARISON_HEADER, report.comparison_rows(result)))
  if "musicgen" in baselines:
    _musicgen(arguments, shape, batches, settings, result)
  save()
  return result


def _floors(bench: Bench, points: list[tuple[float, int, int]], result: dict[str, Any]) -> None:
  """Prints the rates of the device and the floor of every stage."""
  seen = set()
  for seconds, batch, steps in sorted(points):
    for stage in STAGES:
      shown = steps if stage == "dpd" else "-"
      if (seconds, batch, shown, stage) in seen:
        continue
      seen.add((seconds, batch, shown, stage))
      floor = dataclasses.asdict(bench.floor_of(stage, seconds, batch, steps))
      result["floors"].append([seconds, batch, shown, stage, floor])
  for name, value in report.facts(result):
    print(f"{name}: {value}")
  lines = [report.floor_row(*line) for line in result["floors"]]
  print("\nFloor\n" + report.text_columns(report.FLOOR_HEADER, lines), flush=True)


def _say(row: dict[str, Any], header: list[str], lines_of: Any) -> None:
  if "failed" in row:
    print(f"{row['asked_seconds']:g} s, batch {row['batch']}: {row['failed']}", flush=True)
    return
  print(report.text_columns(header, lines_of(row)))
  print(
    f"  NFE {row['nfe']}, {report.figure(row['warm_seconds'])} s warm,"
    f" {report.figure(row['audio_seconds_per_second'])} s of audio a second",
    flush=True,
  )


def _musicgen(arguments, shape, batches, settings, result) -> None:
  """Adds MusicGen's rows to `result`, or the reason why there are none."""
  print("\nMusicGen", flush=True)
  seconds = arguments.musicgen_seconds or arguments.seconds[0]
  dtype = arguments.dtype or result["dtypes"]["lm"]
  try:
    rows = measure_musicgen(shape, seconds, batches, dtype, settings)
  except musicgen.Unavailable as e:
    result["musicgen"] = {"skipped": str(e)}
  else:
    result["musicgen"] = rows
    result["versions"] |= musicgen.versions()
    print(report.text_columns(report.SPEED_HEADER, report.speed_rows("MusicGen small", rows)))
  print(report.musicgen_note(result), flush=True)


def main() -> None:
  """Runs the command."""
  p = parser()
  arguments = p.parse_args()
  unknown = set(filter(None, arguments.baselines.split(","))) - set(BASELINES)
  if unknown:
    p.error(f"--baselines: {', '.join(sorted(unknown))}; known: {', '.join(BASELINES)}")
  check_range("--guidance_scale", arguments.guidance_scale, 0, 100)
  check_range("--budget", arguments.budget, 0, float("inf"), "seconds")
  for folder in filter(None, (arguments.out, arguments.profile)):
    check_new_folder(folder)  # now, not after the measurement
  # A cold time must hold a compilation, not a program read from a cache.
  jax.config.update("jax_enable_compilation_cache", False)
  run(arguments, Device(), musicgen.SMALL)


if __name__ == "__main__":
  flags.run(main)
