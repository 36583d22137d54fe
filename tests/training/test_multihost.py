"""Two real processes of four virtual devices each train as one, and die as one."""

import re
import signal
import time

import jax
import numpy as np
import pytest

from melody_jax.training.checkpoint import load_params
from tests.training.processes import pair, start, train_arguments, write_token_dataset

STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_token_dataset(tmp_path_factory.mktemp("tokens"))


def arguments_of(data, workdir, *more):
  return train_arguments(
    data, workdir, "--config.train.batch_size=8", "--config.mesh.fsdp=2", "--config.mesh.tensor=2",
    "--config.optimizer.eps=1e-2", "--config.train.log_every=1", *more,
  )  # fmt: skip


def test_two_processes_equal_one(data, tmp_path):
  steps = f"--config.train.steps={STEPS}"
  alone = start(arguments_of(data, tmp_path / "alone", steps), devices=8)
  _, said_alone = alone.communicate(timeout=240)
  assert alone.returncode == 0, said_alone
  together = pair(arguments_of(data, tmp_path / "together", steps))
  said = [process.communicate(timeout=240)[1] for process in together]
  assert [process.returncode for process in together] == [0, 0], said
  (a, step_a), (b, step_b) = (load_params(tmp_path / name) for name in ("alone", "together"))
  assert step_a == step_b == STEPS
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)
  # Said once, by the first.
  losses = [re.findall(r"step (\d+)/\d+ .*?loss ([\d.]+)", text) for text in (said_alone, *said)]
  assert len(losses[0]) == len(losses[1]) == STEPS and not losses[2]
  np.testing.assert_allclose(
    [float(loss) for _, loss in losses[0]], [float(loss) for _, loss in losses[1]], rtol=1e-3
  )


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_within_a_minute(data, tmp_path, victim):
  processes = pair(arguments_of(data, tmp_path, "--config.train.steps=1000000"))
  lead = processes[0]
  assert lead.stderr
  for line in lead.stderr:
    if line.startswith("step 3/"):
      break
  processes[victim].send_signal(signal.SIGKILL)
  died = time.monotonic()
  other = processes[1 - victim]
  try:
    _, said = other.communicate(timeout=75)
  finally:
    other.kill()
  assert time.monotonic() - died < 60
  assert other.returncode not in (0, None)
  last = said.strip().splitlines()[-1]
  assert "error:" in last and "run the same command" in last.lower(), said
