"""Run by test_five_runs.py in each process of a run: all models train one after the other.

python -m tests.training.five_runs DATA ROOT STEPS [ENDLESS]

Each trains to STEPS in ROOT/<model>, or goes on from its last checkpoint there. The model named
ENDLESS comes last and never ends by itself.
"""

import pathlib
import sys

from melody_jax.multihost.session import session
from melody_jax.task import TASKS
from melody_jax.training import loop
from tests.training.datasets import run_config

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def main(data: str, root: str, steps: str, endless: str = "") -> None:
  with session():
    for model in sorted(TASKS, key=lambda name: name == endless):
      config = run_config(model, pathlib.Path(data), int(steps))
      config.mesh.update(MESH)
      if model == endless:
        config.train.steps = 1_000_000
      loop.train(config, pathlib.Path(root) / model)


if __name__ == "__main__":
  main(*sys.argv[1:])
