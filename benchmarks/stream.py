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

from absl import app, flags
import numpy as np

from benchmarks.device import hardware_name
from benchmarks.memory import ResidentMemory
from melody_jax import Melody, Request, Settings, audio_io
from melody_jax.generation.leveller import StreamLeveller
from melody_jax.generation.programs import use_compilation_cache
from melody_jax.output_files import write_files
from melody_jax.places.paths import expand

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", "checkpoints/nano", "Bundle directory.")
flags.DEFINE_string("prompt", "slow bossa nova with nylon guitar", "Style, as a text.")
flags.DEFINE_float("seconds", 3600.0, "Seconds of music to make.")
flags.DEFINE_integer("steps", 4, "Denoising steps.")
flags.DEFINE_string("solver", "ab2", "Solver: ddim or ab2.")
flags.DEFINE_float("guidance_scale", 2.0, "Guidance scale; 1 is none.")
flags.DEFINE_integer("seed", 0, "Seed.")
flags.DEFINE_string("out", "", "JSON file to write.")

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


def main(argv) -> None:
  """Measures, prints, and exits with status 1 where memory or loudness drift too far."""
  del argv
  use_compilation_cache()
  melody = Melody.load(FLAGS.checkpoint)
  settings = Settings(steps=FLAGS.steps, solver=FLAGS.solver, guidance_scale=FLAGS.guidance_scale)
  first = {}
  # The second stream finds the program in memory: its time is what a running server needs.
  for kind in ("compiling", "compiled"):
    stream = melody.stream(Request(FLAGS.prompt, seed=FLAGS.seed), settings)
    began = time.monotonic()
    next(stream)
    first[kind] = time.monotonic() - began
  print(
    f"{hardware_name()}: first chunk after {first['compiling']:.2f} s with compiling or loading,"
    f" {first['compiled']:.2f} s once compiled"
  )
  minutes = measure(stream, FLAGS.seconds, melody.sample_rate)

  def growth(key: str) -> float:
    return max(m[key] for m in minutes) / minutes[0][key] - 1.0

  def drift(key: str) -> float:
    return max(abs(m[key] - minutes[0][key]) for m in minutes)

  report = {
    "device": hardware_name(),
    "checkpoint_sha256": melody.digest,
    "steps": FLAGS.steps,
    "solver": FLAGS.solver,
    "guidance_scale": FLAGS.guidance_scale,
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
  if FLAGS.out:
    write_files({pathlib.Path(expand(FLAGS.out)): json.dumps(report, indent=1).encode()})
  grown = max(report["peak_memory_growth"], report["held_memory_growth"])
  if grown > MAX_GROWTH or report["written_drift_db"] > MAX_DRIFT:
    raise SystemExit(1)


if __name__ == "__main__":
  app.run(main)
