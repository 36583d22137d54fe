"""Memory, start and resume of the loader by the number of records, and its throughput.

    python benchmarks/loader.py --records=1000,100000,10000000

The datasets are synthetic: ten thousand records of 30 s, as often as it takes. Each size is
measured in a process of its own; imports, which every run has, are told apart.
"""

import json
import multiprocessing
import os
import pathlib
import shutil
import tempfile
import time
from typing import Any

import numpy as np

from melody_jax.command_line.flags import Parser, run
from melody_jax.input_pipeline import shards
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.task import WindowFeature

_SHARD = 10_000  # records of a shard
_RATE, _SECONDS = 25.0, 30
_FAR = 1_000_000  # the step that a run goes on from


def write(root: pathlib.Path, records: int) -> None:
  """Writes a dataset of semantic tokens whose shards are one file under many names.

  Args:
    root: Directory of the dataset.
    records: Number of records; more than 10,000 are rounded to tens of thousands.
  """
  count = max(1, records // _SHARD)
  features = {"semantic_tokens": Feature(_RATE, "int16")}
  writer = ShardWriter(root, "train", 0, count, features)
  tokens = np.random.default_rng(0).integers(0, 1024, (64, int(_RATE * _SECONDS)), np.int16)
  for i in range(min(records, _SHARD)):
    # Some are shorter, so that windows have to be counted.
    writer.write({"id": str(i)}, {"semantic_tokens": tokens[i % 64][: 750 - 5 * (i % 90)]})
  first = writer.close()
  folder = shards.folder_of(root)
  for shard in range(1, count):
    note = shards.note_of(root, "train", shard, count)
    for source, target in (
      (shards.data_file(folder, first.stem), shards.data_file(folder, note.stem)),
      (shards.lengths_file(first), shards.lengths_file(note)),
      (first, note),
    ):
      os.link(source, target)
  shards.finish(root)


def _memory(key: str) -> float:
  """A line of this process' status, in MB."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def _measure(root: str, batches: int, pipe: Any) -> None:
  began = time.perf_counter()
  import tensorflow_datasets  # noqa: F401  # what opening a dataset imports

  from melody_jax.input_pipeline.dataset import Dataset
  from melody_jax.input_pipeline.grain_source import GrainSource

  row: dict[str, float] = {"imports_seconds": time.perf_counter() - began}
  features = {"semantic_tokens": WindowFeature((250,), "int32", 1024)}
  before = _memory("RssAnon")

  def open_source() -> GrainSource:
    return GrainSource([Dataset(root, "train")], features, 10.0, 32, seed=1)

  began, worked = time.perf_counter(), time.process_time()
  source = open_source()
  next(source)
  row["start_seconds"] = time.perf_counter() - began
  row["start_cpu_seconds"] = time.process_time() - worked
  began = time.perf_counter()
  for _ in range(batches):
    next(source)
  row["windows_a_second"] = 32 * batches / (time.perf_counter() - began)
  source.close()
  began, worked = time.perf_counter(), time.process_time()
  source = open_source()
  source.set_state({"position": _FAR})
  next(source)
  row["resume_seconds"] = time.perf_counter() - began
  row["resume_cpu_seconds"] = time.process_time() - worked
  source.close()
  row["memory_mb"], row["windows"] = _memory("RssAnon") - before, source.windows
  pipe.send(row)


def main() -> None:
  """Measures each size, prints a table, and writes JSON where asked."""
  parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
  parser.add_argument("--records", default="1000,100000,10000000", help="sizes, with commas")
  parser.add_argument("--batches", type=int, default=200, help="batches of 32 windows to time")
  parser.add_argument("--out", default="", help="JSON file of the rows")
  arguments = parser.parse_args()
  rows = []
  context = multiprocessing.get_context("spawn")
  for records in map(int, arguments.records.split(",")):
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
      write(folder, records)
      here, there = context.Pipe()
      process = context.Process(target=_measure, args=(str(folder), arguments.batches, there))
      process.start()
      rows.append({"records": records, **here.recv()})
      process.join()
    finally:
      shutil.rmtree(folder)
    print(" ".join(f"{key}={value:,.2f}" for key, value in rows[-1].items()), flush=True)
  if arguments.out:
    pathlib.Path(arguments.out).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
  run(main)
