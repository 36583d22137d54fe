"""A sixth model is three new files and one line in a table: it is planned, trained and exported."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from melody_jax import bundle
from melody_jax.input_pipeline.shards import Feature, ShardWriter

FILES = {
  "network.py": "melody_jax/models/loudness.py",
  "task.py": "melody_jax/tasks/loudness.py",
  "config.py": "configs/loudness.py",
}
LINE = '  "loudness": "melody_jax.tasks.loudness:LoudnessTask",\n'
# Planning comes first: it asks for the devices that the others then use.
COMMANDS = """
import sys
from melody_jax import cli, export, plan, train

def command(main, arguments, **how):
  sys.argv = [main.__module__, "--config=configs/loudness.py:tiny", *arguments]
  cli.run(main, **how)

command(plan.main, ["--topology=cpu:2", "--out=plan.json"], strings={"topology": "", "preset": "", "out": ""})
command(train.main, ["--workdir=run", "--config.data.path=audio"], needs_workdir=True)
command(export.export, ["--workdir=run", "--config.export.bundle=models"], needs_workdir=True)
command(train.main, ["--workdir=again", "--config.data.path=audio", "--config.train.steps=1",
  "--config.train.init_from=models/loudness.safetensors"], needs_workdir=True)
"""  # noqa: E501


def write_audio(root) -> None:
  """Noise whose level changes from record to record."""
  rng = np.random.default_rng(0)
  for split in ("train", "validation"):
    writer = ShardWriter(root, split, 0, 1, {"audio": Feature(24_000, "int16")})
    for i in range(8):
      wave = 10_000 * 0.5**i * rng.uniform(-1, 1, 2 * 24_000)
      writer.write({"id": str(i)}, {"audio": wave.astype(np.int16)})
    writer.close()


@pytest.fixture(scope="module")
def copy(repository, tmp_path_factory):
  """The program with the sixth model in it, after all commands have run."""
  root = tmp_path_factory.mktemp("program")
  ignore = shutil.ignore_patterns("__pycache__")
  shutil.copytree(repository / "melody_jax", root / "melody_jax", ignore=ignore)
  (root / "configs").mkdir()
  for source, target in FILES.items():
    assert not (root / target).exists()
    shutil.copy(repository / "tests" / "sixth_model" / source, root / target)
  table = root / "melody_jax" / "task.py"
  before, after = table.read_text().split("TASKS = {\n")
  table.write_text(f"{before}TASKS = {{\n{LINE}{after}")
  write_audio(root / "audio")
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root), "XLA_FLAGS": ""}
  done = subprocess.run(
    [sys.executable, "-c", COMMANDS], cwd=root, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return root, done


def test_it_is_planned(copy):
  plan = json.loads((copy[0] / "plan.json").read_text())
  assert plan["fits"] and plan["devices"] == 2 and plan["batch_size"] == 8
  # Frames of 240 samples through 16 units and one; the loss and its two gradients, but for the
  # one with respect to the samples. Rematerialisation computes the hidden layer once more.
  hidden, out = 8 * 100 * 2 * 240 * 16, 8 * 100 * 2 * 16
  assert plan["model_flops"] == pytest.approx((2 * hidden + 3 * out) / 2)
  assert plan["flops"] == pytest.approx((3 * hidden + 3 * out) / 2)


def test_it_is_trained(copy):
  said = [line for line in copy[1].stderr.splitlines() if " validation loss " in line][:2]
  assert [line.split()[1] for line in said] == ["20", "40"]
  early, late = (float(line.split(" loss ")[1].split()[0]) for line in said)
  assert late < early < 90, "untrained it is about 93"


def test_it_is_exported_and_begins_another_run(copy):
  root, done = copy
  params, metadata = bundle.load(root / "models" / "loudness.safetensors")
  assert params["hidden"]["dense"]["kernel"].shape == (240, 16)
  assert metadata["task"] == "loudness" and metadata["step"] == 40
  assert metadata["model_config"] == {"frame": 240, "width": 16, "remat": True}
  assert "begins with 4 of 4 arrays" in done.stderr
