"""Measures the training step of every model on this device, and the input pipeline alone.

    python -m benchmarks.train_step                        all five models at nano size
    python -m benchmarks.train_step --models=lm,dpd --preset=paper --batch=16 --dtype=bfloat16

First it prints the floor: the matmul operations of a step (counted in its jaxpr) divided by the
matmul rate measured on this device. Then it prints the step: seconds of audio per second, FLOP/s,
and the share of that rate in the model's dtype. Recomputation to save memory does not count as
work. The input pipeline reads random int16 audio, or random tokens and latents, from a temporary
dataset; `input/step` says how many times faster it is than the step that it feeds.
"""

import argparse
import functools
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks.device import hardware_name, matmul_peak, seconds_per_call
from melody_jax import sharding
from melody_jax.command_line.flags import Parser, at_least_one, run
from melody_jax.config import DTYPES
from melody_jax.errors import check_choice
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.input_pipeline.source import make_source
from melody_jax.output_files import check_writable
from melody_jax.places.config_pages import load
from melody_jax.places.paths import expand
from melody_jax.task import TASKS, make_task
from melody_jax.training.flops import useful_flops
from melody_jax.training.state import make_init, sharded_init, shardings_of_state
from melody_jax.training.step import compile_train_step, make_train_step

_peak = functools.cache(matmul_peak)
_RATES = {"audio": 24_000, "semantic_tokens": 25, "style_tokens": 0.4}


def write_dataset(root: pathlib.Path, config: Any, task: Any, records: int = 32) -> None:
  """Writes random records of 30 s with the features that a task reads.

  Args:
    root: Directory of the dataset.
    config: Config of the task's training run.
    task: Task that will read it.
    records: Number of records in the training split.
  """
  rng = np.random.default_rng(0)
  features, arrays = {}, {}
  for name, spec in task.input_features().items():
    # The task tokenises captions itself, in `prepare`.
    if name.startswith("text_"):
      continue
    if name == "audio":
      features[name] = Feature(24_000, "int16")
      arrays[name] = rng.integers(-3000, 3000, (30 * 24_000,)).astype(np.int16)
    elif name == "latents":
      features[name] = Feature(config.latent_rate, "float16", tuple(spec.shape[1:]))
      arrays[name] = rng.normal(size=(round(30 * config.latent_rate), *spec.shape[1:])) / 3
    elif name == "style_tokens":
      features[name] = Feature(_RATES[name], "int16", tuple(spec.shape), per_window=True)
      arrays[name] = rng.integers(0, 1024, (9, *spec.shape))
    else:
      features[name] = Feature(_RATES[name], "int16")
      arrays[name] = rng.integers(0, 1024, (30 * _RATES[name],))
  for split in ("train", "validation"):
    writer = ShardWriter(root, split, 0, 1, features)
    for i in range(records if split == "train" else 2):
      writer.write({"id": str(i), "captions": ["slow piano music with strings"]}, arrays)
    writer.close()


def input_seconds(config: Any, task: Any, batches: int = 5) -> float:
  """Seconds that the input pipeline alone takes for a batch, after the first batch."""
  source = make_source(config, task, "train")
  task.prepare(next(source))
  start = time.perf_counter()
  for _ in range(batches):
    task.prepare(next(source))
  return (time.perf_counter() - start) / batches


def config_to_measure(name: str, arguments: argparse.Namespace) -> Any:
  """Config of a model, with the changes of the command line."""
  config = load(name, arguments.preset)
  if arguments.batch:
    config.train.batch_size, config.train.accumulate = arguments.batch, 1
  if arguments.dtype:
    for part in ("model", "discriminator"):
      if part in config:
        config[part].dtype = arguments.dtype
  return config


def measure(config: Any, repeats: int) -> dict[str, Any]:
  """Measures one model; returns its row."""
  peak = _peak(config.model.get("dtype", "float32"))
  with tempfile.TemporaryDirectory() as folder:
    task = make_task(config)
    write_dataset(pathlib.Path(folder), config, task)
    config.data.path = folder
    input_time = input_seconds(config, task)
    batch = task.prepare(next(make_source(config, task, "train")))
  # The same functions as the training loop, so that the same program is measured.
  mesh = sharding.make_mesh(config.mesh)
  init, optimizers, boxed = make_init(config, task)
  shardings = shardings_of_state(mesh, init, boxed)
  state = sharded_init(mesh, init, shardings)(jax.random.key(0))
  rows = sharding.batch_sharding(mesh)
  batch = {k: jax.device_put(v, rows) for k, v in batch.items()}
  parameters = sum(x.size for x in jax.tree.leaves(state.params))
  flops = useful_flops(task, state.params, batch)
  started = time.perf_counter()
  step = compile_train_step(make_train_step(config, task, optimizers), mesh, shardings)
  step = step.lower(state, batch).compile()
  compiled = time.perf_counter() - started
  # The step donates its state: each call has to take the state of the one before.
  holder = [state]

  def once():
    holder[0], metrics = step(holder[0], batch)
    return metrics

  seconds = seconds_per_call(once, repeats)
  audio = config.train.batch_size * config.window_seconds
  devices = jax.device_count()
  return {
    "model": config.task, "preset": config.preset, "parameters": parameters,
    "batch": config.train.batch_size, "gflop": flops / 1e9, "matmul_peak": peak,
    "floor_seconds": flops / devices / peak, "step_seconds": seconds,
    "audio_seconds_per_second": audio / seconds, "gflop_per_second": flops / seconds / 1e9,
    "share_of_matmul_peak": flops / seconds / devices / peak,
    "input_seconds": input_time, "input_over_step": seconds / input_time,
    "compile_seconds": compiled,
  }  # fmt: skip


def main() -> None:
  """Measures the models, prints a table, and writes JSON where asked."""
  parser = Parser(__doc__.split("\n")[0] if __doc__ else None)
  parser.add_argument("--models", default=",".join(TASKS))
  parser.add_argument("--preset", default="nano", choices=("tiny", "nano", "paper"))
  parser.add_argument(
    "--batch", type=at_least_one, default=0, help="rows, in one part; else the config's"
  )
  parser.add_argument(
    "--dtype", default="", choices=("", *DTYPES), help="of computation; default: the config's"
  )
  parser.add_argument("--repeats", type=at_least_one, default=5)
  parser.add_argument("--out", default="", type=expand, help="JSON to write")
  arguments = parser.parse_args()
  for name in arguments.models.split(","):
    check_choice("--models", name, TASKS)
  if arguments.out:
    check_writable(arguments.out, (".json",))
  print(f"{hardware_name()}; jax {jax.__version__}; peak: measured GFLOP/s of a device")
  print(
    "model    M param  batch   GFLOP   floor s    step s  audio-s/s  GFLOP/s     peak  of peak"
    "  input/step"
  )
  results = []
  for name in arguments.models.split(","):
    r = measure(config_to_measure(name, arguments), arguments.repeats)
    results.append(r)
    print(
      f"{name:8s} {r['parameters'] / 1e6:7.1f} {r['batch']:6d} {r['gflop']:7.1f}"
      f" {r['floor_seconds']:9.4f} {r['step_seconds']:9.4f} {r['audio_seconds_per_second']:10.1f}"
      f" {r['gflop_per_second']:8.1f} {r['matmul_peak'] / 1e9:8.1f}"
      f" {100 * r['share_of_matmul_peak']:7.1f}% {r['input_over_step']:11.1f}",
      flush=True,
    )
  if arguments.out:
    header = {"device": hardware_name(), "jax": jax.__version__}
    text = json.dumps({**header, "results": results}, indent=2)
    pathlib.Path(arguments.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
  run(main)
