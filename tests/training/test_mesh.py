"""One step on a (data, fsdp, tensor) = (2, 2, 2) mesh equals the step of one device."""

import json

import pytest

from melody_jax.task import TASKS
from tests.training.mesh_step import VARIANTS
from tests.training.processes import start


@pytest.fixture(scope="module")
def compared():
  """Of all models, in one process: {model: what was found}, and what it said."""
  process = start(["-m", "tests.training.mesh_step", *TASKS, *VARIANTS], devices=8)
  said, errors = process.communicate(timeout=1800)
  assert process.returncode == 0, errors
  rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
  return {row["model"]: row for row in rows}, errors


@pytest.mark.parametrize("model", [*TASKS, *VARIANTS])
def test_a_step_on_eight_devices_equals_one(compared, model):
  rows, errors = compared
  assert model in rows, errors
  found = rows[model]
  assert found["devices"] == 8
  assert found["split"] >= 5, "parameters lie whole on every device: nothing was sharded"
  assert found["moved"] > 1e-4, "the step changed nothing"
  assert found["loss"] < 1e-5 and found["parameters"] < 1e-5
