"""`launch/nano.sh status`: what it says of stages that wait, train, stopped and are done."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _status():
  spec = importlib.util.spec_from_file_location("status", ROOT / "launch" / "status.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _write(root: pathlib.Path, model: str, time: float) -> None:
  (root / model).mkdir(parents=True)
  progress = {"step": 120, "steps": 400, "time": time, "eta_seconds": 4000.0}
  progress |= {"train": {"loss": 0.71}, "validation": {"loss": 0.75}, "validation_step": 100}
  (root / model / "progress.json").write_text(json.dumps(progress))


def test_a_stage_that_trains_tells_step_losses_and_time_left(tmp_path):
  _write(tmp_path, "dpd", 1000.0)
  cells = _status().row(tmp_path, "train_dpd", 1020.0)
  assert cells == ("train_dpd", "training", "120 of 400", "0.71", "0.75 at 100", "1 h 06 min")


def test_a_stage_that_fell_silent_is_not_called_stopped(tmp_path):
  _write(tmp_path, "lm", 1000.0)
  cells = _status().row(tmp_path, "train_lm", 9000.0)
  assert cells[1] == "silent for 2 h 13 min" and cells[-1] == ""


def test_the_recipe_lists_all_stages_of_its_root(tmp_path):
  (tmp_path / "runs" / "done").mkdir(parents=True)
  (tmp_path / "runs" / "done" / "fit_axes").write_text("2026-11-25T10:00:00Z\n")
  (tmp_path / "runs" / "lm").mkdir()
  (tmp_path / "runs" / "lm" / "progress.json").write_text("{half")  # as it is being written
  done = subprocess.run(
    ["bash", "launch/nano.sh", "status"], cwd=ROOT, capture_output=True, text=True,
    env={**os.environ, "PYTHON": sys.executable, "ROOT": str(tmp_path / "runs")},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  lines = {line.split()[0]: line for line in done.stdout.splitlines()[2:]}
  assert "done 2026-11-25T10:00:00Z" in lines["fit_axes"]
  assert "waiting" in lines["train_lm"] and "waiting" in lines["build_recorded"]


def test_a_run_writes_what_status_reads(tmp_path):
  from melody_jax.training import run_record

  run_record.write_progress(tmp_path / "dpd", {"step": 1})  # no such directory: nothing happens
  (tmp_path / "dpd").mkdir()
  progress = {"step": 3, "steps": 9, "time": 5.0, "eta_seconds": 60.0}
  run_record.write_progress(tmp_path / "dpd", progress | {"train": {"loss": 0.5}})
  cells = _status().row(tmp_path, "train_dpd", 6.0)
  assert cells == ("train_dpd", "training", "3 of 9", "0.5", "", "0 h 01 min")
