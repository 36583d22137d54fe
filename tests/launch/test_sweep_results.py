"""Sweeps to their end: killed and started again, failures, results as table and plot."""

import csv
import json
import os
import subprocess
import sys

import pytest

from melody_jax import evaluate
from melody_jax.errors import UserError
from tests.conftest import REPOSITORY
from tests.launch.test_launchers import sweeps

RUNNER = """#!/bin/bash
# Stands in for a launcher: notes that it ran, fails where told, leaves a result.
echo "$RUN" >> "$LOG"
for word in "$@"; do [[ $word == --workdir=* ]] && where=${word#--workdir=}; done
[[ $RUN != *-${FAIL:-none} ]] || exit 3
echo "{\\"metrics\\": {\\"loss\\": ${RUN##*-}.5}}" > "$where/result.json"
[[ $RUN != *-${KILL:-none} ]] || kill -9 $PPID
"""


@pytest.fixture
def run(tmp_path):
  runner = tmp_path / "runner.sh"
  runner.write_text(RUNNER)
  runner.chmod(0o755)

  def start(*arguments, **environ):
    environ = {
      "PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHON": sys.executable,
      "LAUNCHER": str(runner), "LOG": str(tmp_path / "log"), **environ,
    }  # fmt: skip
    return subprocess.run(
      ["bash", str(REPOSITORY / "launch" / "sweep.sh"), *arguments],
      env=environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

  return start


def test_a_killed_sweep_goes_on_without_what_is_finished(run, tmp_path):
  command = ("lm_learning_rate", str(tmp_path / "d"), "--config.seed=1")

  def started():
    return [int(name[-1]) for name in (tmp_path / "log").read_text().split()]

  # Killed behind the second run, whose end the sweep itself never heard of.
  assert run(*command, KILL="1").returncode != 0
  assert started() == [0, 1]
  done = run(*command, FAIL="3")
  assert done.returncode == 2 and "these runs failed: lm-learning-rate-3 (status 3)" in done.stderr
  assert run(*command).returncode == 0
  assert started() == [0, 1, 2, 3, 3]
  assert run(*command).returncode == 0 and len(started()) == 5
  table = run("gather", *command[:2])
  assert table.returncode == 0 and "| 0.002 | 60 | 1 | 2.5 | - |" in table.stdout


def test_a_failed_run_is_missing_from_the_table_and_the_status_says_so(run, tmp_path):
  done = run("lm_learning_rate", str(tmp_path / "d"), FAIL="2")
  assert done.returncode == 2 and "lm-learning-rate-2 (status 3)" in done.stderr
  gathered = run("gather", "lm_learning_rate", str(tmp_path / "d"))
  assert (
    gathered.returncode == 2 and "1 runs have no result: learning_rate=0.002" in gathered.stderr
  )
  assert "Without a result: learning_rate=0.002,warmup_steps=60." in gathered.stdout
  assert (tmp_path / "d" / "lm_learning_rate" / "results.png").stat().st_size > 1000


def test_results_of_another_command_are_refused(run, tmp_path):
  assert run("lm_learning_rate", str(tmp_path / "d")).returncode == 0
  done = run("lm_learning_rate", str(tmp_path / "d"), "--config.seed=2")
  assert done.returncode == 2 and "finished by another command (--config.seed=2)" in done.stderr
  assert len((tmp_path / "log").read_text().split()) == 4


@pytest.fixture
def sweep():
  runs = [{"train.steps": steps, "seed": seed} for steps in (5, 10) for seed in (0, 1, 2)]
  metrics = {"loss": ("metrics", "loss"), "gain": ("metrics", "gain")}
  return sweeps.Sweep("made_up", "configs/lm.py:nano", runs, metrics)


def test_seeds_become_mean_and_spread(sweep, tmp_path):
  for run in sweep.runs:
    folder = tmp_path / "made_up" / sweeps.run_name(run)
    folder.mkdir(parents=True)
    loss = run["train.steps"] + run["seed"]
    (folder / "result.json").write_text(json.dumps({"metrics": {"loss": loss}}))
  assert sweeps.gather(sweep, str(tmp_path)) == []
  (five, ten) = csv.DictReader((tmp_path / "made_up" / "results.csv").open())
  assert five == {
    "train.steps": "5", "runs": "3", "loss": "6.0", "loss spread": "1.0", "gain": "",
    "gain spread": "",
  }  # fmt: skip
  assert ten["loss"] == "11.0"
  assert "| 5 | 3 | 6 | 1 | - | - |" in (tmp_path / "made_up" / "results.md").read_text()


def test_nothing_to_gather_is_one_line(sweep, tmp_path):
  with pytest.raises(sweeps.SweepError, match="no finished run"):
    sweeps.gather(sweep, str(tmp_path))


def test_evaluations_share_a_process_and_one_failure_is_told_at_the_end(tmp_path, monkeypatch):
  sweep, made = sweeps.load("steps"), []

  def measure(config):
    made.append((config.sampling.sampler.steps, config.seed))
    if made[-1] == (10, 1) and len(made) < 10:
      raise UserError("no such luck")
    folder = tmp_path / config.out
    folder.mkdir(parents=True, exist_ok=True)
    scores = {"fad": config.sampling.sampler.steps + config.seed}
    (folder / "sampling.json").write_text(json.dumps({"scores": scores}))

  monkeypatch.setattr(evaluate, "evaluate", measure)
  more = ["--config.data=x"]
  failed = sweeps.run(sweep, str(tmp_path / "d"), more)
  assert failed == ["steps-4 (no such luck)"] and len(made) == 9
  assert sweeps.gather(sweep, str(tmp_path / "d")) == ["steps=10,seed=1"]
  # What is finished is not made again.
  assert sweeps.run(sweep, str(tmp_path / "d"), more) == [] and made[9:] == [(10, 1)]
  assert sweeps.gather(sweep, str(tmp_path / "d")) == []
  rows = list(csv.DictReader((tmp_path / "d" / "steps" / "results.csv").open()))
  assert [(row["FAD"], row["FAD spread"]) for row in rows] == [
    ("6.0", "1.0"), ("11.0", "1.0"), ("21.0", "1.0"),
  ]  # fmt: skip
  with pytest.raises(sweeps.SweepError, match="trains"):
    sweeps.run(sweeps.load("chunks"), str(tmp_path / "d"), [])


@pytest.mark.parametrize("status", [0, 2])
def test_evaluations_on_this_machine_go_to_one_process(run, tmp_path, status):
  python = tmp_path / "python.sh"
  python.write_text(
    '#!/bin/bash\necho "$2" >> "$LOG"\n'
    'case $2 in pending) echo "steps-0 melody_jax.evaluate --config=x" ;;\n'
    "run) exit $STATUS ;; esac\n"
  )
  python.chmod(0o755)
  local = {"LAUNCHER": "launch/local.sh", "PYTHON": str(python), "STATUS": str(status)}
  done = run("steps", "d", **local)
  assert (tmp_path / "log").read_text().split() == ["pending", "run", "gather"]
  assert done.returncode == status
  assert ("these runs failed: run (status 2)" in done.stderr) == (status == 2)
