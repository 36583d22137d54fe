"""Runs of real processes for tests: own devices, own death."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from melody_jax.input_pipeline.shards import Feature, ShardWriter

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def environment(devices: int = 1) -> dict[str, str]:
  """The environment of a process with so many virtual CPU devices."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  if devices > 1:
    # Else XLA lets independent collectives run at once, and with more devices than cores each may
    # hold the threads that the other waits for.
    flags += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
  return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(REPOSITORY)}


def start(arguments: list[str], devices: int = 1, **kwargs) -> subprocess.Popen:
  """`python <arguments>` from the repository's root, output captured as text."""
  return subprocess.Popen(
    [sys.executable, *arguments], cwd=REPOSITORY, env=environment(devices) | kwargs.pop("env", {}),
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs,
  )  # fmt: skip


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def pair(arguments: list[str]) -> list[subprocess.Popen]:
  """Both processes of a run over a coordinator on this machine."""
  address = f"localhost:{free_port()}"
  environments = [
    {
      "MELODY_COORDINATOR": address,
      "MELODY_NUM_PROCESSES": "2",
      "MELODY_PROCESS_ID": str(i),
    }
    for i in range(2)
  ]
  return [start(arguments, devices=4, env=env) for env in environments]


def write_token_dataset(root: pathlib.Path, records: int = 6) -> pathlib.Path:
  """What the LM trains on, random: 12 style and 250 semantic tokens a window."""
  rng = np.random.default_rng(0)
  features = {
    "style_tokens": Feature(0.4, "int16", (12,), per_window=True),
    "semantic_tokens": Feature(25.0, "int16"),
  }
  for split in ("train", "validation"):
    writer = ShardWriter(root, split, 0, 1, features)
    for i in range(records):
      arrays = {
        "style_tokens": rng.integers(0, 8, (6, 12)),
        "semantic_tokens": rng.integers(0, 16, 375),
      }
      writer.write({"id": str(i), "captions": ["noise"]}, arrays)
    writer.close()
  return root


def train_arguments(data: pathlib.Path, workdir: pathlib.Path, *more: str) -> list[str]:
  """A tiny LM run with a schedule that does not depend on when it ends."""
  return [
    "-m", "melody_jax.train", "--config=configs/lm.py:tiny", f"--workdir={workdir}",
    f"--config.data.path={data}", "--config.optimizer.schedule=constant",
    "--config.train.eval_every=0", *more,
  ]  # fmt: skip
