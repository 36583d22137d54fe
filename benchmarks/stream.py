"""A long stream: does its memory stay flat, do its chunks stay quick, does its loudness drift?

    python -m benchmarks.stream --checkpoint=checkpoints/nano --seconds=3600 --steps=2 --out=s.json

Prints one line per minute of music: the peak of the resident memory, the memory held between chunks
(the median), the slowest chunk, and the loudness (BS.1770), both as the model makes it and as the
command `melody_jax.sample` writes it, levelled. Everything is compiled before the first minute.

A single reading between chunks depends on whether XLA has already given back the scratch memory of
a chunk (42 MiB at nano); peak and median do not. The command exits with status 1 if, in any minute,
one of them is more than 5 % above the first minute's, or the written loudness is more than 3 dB
away from the first minute's.
"""

import json
import pathlib
import time

import numpy as np

from benchmarks.device import hardware_name
from benchmarks.memory import ResidentMemory
from melody_jax import Melody, Request, Settings, audio_io
from melody_jax.command_line.flags import Parser, at_least_one, run
from melody_jax.errors import check_range
from melody_jax.generation.leveller import StreamLeveller
from melody_jax.generation.options import SOLVERS
from melody_jax.generation.programs import use_compilation_cache
from melody_jax.output_files import check_writable, write_files
from melody_jax.places.paths import expand

MAX_GROWTH, MAX_DRIFT = 0.05, 3.0


def measure(stream, seconds: float, sample_rate: int) -> list[dict[str, float]]:
  """Measures a stream.

  Args:
    stream: Stream of chunks [samples], as `Melody.stream` returns it.
    seconds: Length of music to make.
    sample_rate: Sample rate in Hz.

  Returns:
    One record per minute of music.
  """
  minutes, slowest = [], 0.0
  raw, written = [], []
  level = StreamLeveller(sample_rate, audio_io.OUTPUT_LUFS)
  memory = ResidentMemory()
  for k in range(round(seconds / stream.chunk_seconds)):
    began = time.monotonic()
    raw.append(next(stream))
    # A listener hears the slowest chunk, not the mean.
    slowest = max(slowest, time.monotonic() - began)
    written.append(level(raw[-1], stream.state.audio[0]))
    memory.read()
    if (k + 1) * stream.chunk_seconds % 60:
      continue
    minutes.append(
      {
        "minute": len(minutes) + 1,
        "peak_mib": memory.peak,
        "held_mib": memory.held,
        "slowest_chunk_seconds": slowest,
        "raw_lufs": audio_io.loudness(np.concatenate(raw), sample_rate),
        "written_lufs": audio_io.loudness(np.concatenate(written), sample_rate),
      }
    )
    print(", ".join(f"{name} {value:.2f}" for name, value in minutes[-1].items()), flush=True)
    raw, written, slowest = [], [], 0.0
    memory.restart()
  return minutes


def parser() -> Parser:
  """The command's options."""
  p = Parser(__doc__.split("\n")[0] if __doc__ else None)
  p.add_argument("--checkpoint", default="checkpoints/nano", type=expand, help="bundle")
  p.add_argument("--prompt", default="slow bossa nova with nylon guitar", help="style, as a text")
  p.add_argument("--seconds", type=float, default=3600.0, help="music to make")
  p.add_argument("--steps", type=at_least_one, default=4, help="denoising steps")
  p.add_argument("--solver", default="ab2", choices=SOLVERS)
  p.add_argument("--guidance_scale", type=float, default=Settings.guidance_scale, help="1 is none")
  p.add_argument("--seed", type=int, default=0)
  p.add_argument("--out", default="", type=expand, help="JSON file to write")
  return p


def main() -> None:
  """Measures, prints, and exits with status 1 where memory or loudness drift too far."""
  arguments = parser().parse_args()
  check_range("--seconds", arguments.seconds, 1, float("inf"))
  if arguments.out:
    check_writable(arguments.out, (".json",))
  use_compilation_cache()
  melody = Melody.load(arguments.checkpoint)
  settings = Settings(
    steps=arguments.steps, solver=arguments.solver, guidance_scale=arguments.guidance_scale
  )
  first = {}
  # The second stream finds the program in memory: its time is what a running server needs.
  for kind in ("compiling", "compiled"):
    stream = melody.stream(Request(arguments.prompt, seed=arguments.seed), settings)
    began = time.monotonic()
    next(stream)
    first[kind] = time.monotonic() - began
  print(
    f"{hardware_name()}: first chunk after {first['compiling']:.2f} s with compiling or loading,"
    f" {first['compiled']:.2f} s once compiled"
  )
  minutes = measure(stream, arguments.seconds, melody.sample_rate)

  def growth(key: str) -> float:
    return max(m[key] for m in minutes) / minutes[0][key] - 1.0

  def drift(key: str) -> float:
    return max(abs(m[key] - minutes[0][key]) for m in minutes)

  report = {
    "device": hardware_name(),
    "checkpoint_sha256": melody.digest,
    "steps": arguments.steps,
    "solver": arguments.solver,
    "guidance_scale": arguments.guidance_scale,
    "first_chunk_seconds": first["compiled"],
    "chunk_seconds": stream.chunk_seconds,
    "peak_memory_growth": growth("peak_mib"),
    "held_memory_growth": growth("held_mib"),
    "raw_drift_db": drift("raw_lufs"),
    "written_drift_db": drift("written_lufs"),
    "slowest_later_chunk_seconds": max(m["slowest_chunk_seconds"] for m in minutes[1:] or minutes),
    "seconds_per_minute_of_music": (time.monotonic() - began) / len(minutes),
    "minutes": minutes,
  }
  print(json.dumps({k: v for k, v in report.items() if k != "minutes"}, indent=1))
  if arguments.out:
    write_files({pathlib.Path(arguments.out): json.dumps(report, indent=1).encode()})
  grown = max(report["peak_memory_growth"], report["held_memory_growth"])
  if grown > MAX_GROWTH or report["written_drift_db"] > MAX_DRIFT:
    raise SystemExit(1)


if __name__ == "__main__":
  run(main)
