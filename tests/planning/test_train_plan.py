"""The plan command: what it writes, and what it does when a run does not fit."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import pytest

from melody_jax.errors import UserError
from melody_jax.planning import topology, train_plan
from tests.configs import load_config
from tests.training.processes import environment

# One process asks for all plans, the eight devices first: it cannot change their number later.
PLANS = {
  "eight devices": (
    "--config=configs/lm.py:tiny", "--topology=cpu:8", "--out=WHERE/eight.json",
    "--config.train.batch_size=16", "--config.mesh.fsdp=2", "--config.mesh.tensor=2",
  ),
  "batch": ("--config=configs/lm.py:tiny", "--topology=cpu:8", "--config.train.batch_size=4"),
  "no topology": ("--config=configs/lm.py:tiny",),
  "no such chip": ("--config=configs/lm.py:tiny", "--topology=v9:2x2"),
  "two dimensions": ("--config=configs/lm.py:tiny", "--topology=v4:2x2"),
  "no training": ("--config=configs/encode.py", "--topology=cpu:1"),
  "no directory": (
    "--config=configs/lm.py:tiny", "--topology=cpu:1", "--out=WHERE/none/x.json"
  ),
  "tpu": (
    "--config=configs/dpd.py:tiny", "--topology=v5e:2x2", "--out=WHERE/tpu.json",
    "--config.train.batch_size=4", "--config.mesh.tensor=2", "--config.model.dtype=bfloat16",
  ),
  "two cores": (
    "--config=configs/lm.py:tiny", "--topology=v4:2x2x1", "--config.train.batch_size=4"
  ),
  "two slices": (
    "--config=configs/lm.py:tiny", "--topology=v5e:2x2", "--slices=2", "--out=WHERE/slices.json",
    "--config.train.batch_size=8", "--config.mesh.fsdp=2", "--config.mesh.tensor=2",
  ),
  "search": (
    "--config=configs/lm.py:tiny", "--topology=cpu:8", "--search", "--out=WHERE/search.json",
    "--config.train.batch_size=1",
  ),
  "no slices": ("--config=configs/lm.py:tiny", "--topology=cpu:8", "--slices=2"),
  "no number": ("--config=configs/lm.py:tiny", "--topology=v5e:2x2", "--slices=two"),
  "search for a sampler": ("--config=configs/sample.py", "--topology=cpu:8", "--search"),
}  # fmt: skip
NEEDS_LIBTPU = ("tpu", "two cores", "two slices")
COMMANDS = """
import contextlib, io, json, os, sys
from melody_jax import cli, plan

where, plans = sys.argv[1], json.loads(sys.argv[2])
found = {}
for name, arguments in plans.items():
  sys.argv = ["plan", *(argument.replace("WHERE", where) for argument in arguments)]
  status, out, err = 0, io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      cli.run(plan.main, strings={"topology": "", "preset": "", "out": "", "slices": ""},
              switches={"search": ""})
    except SystemExit as end:
      status = end.code
  found[name] = [status, out.getvalue(), err.getvalue()]
with open(os.path.join(where, "found.json"), "w") as file:
  json.dump(found, file)
"""


@pytest.fixture(scope="module")
def planned(repository, tmp_path_factory):
  """{name of a plan: (status, standard output, standard error)}, and where the files lie."""
  where = tmp_path_factory.mktemp("plans")
  has_libtpu = importlib.util.find_spec("libtpu") is not None
  plans = {k: v for k, v in PLANS.items() if has_libtpu or k not in NEEDS_LIBTPU}
  done = subprocess.run(
    [sys.executable, "-c", COMMANDS, str(where), json.dumps(plans)],
    cwd=repository, env=environment(1), capture_output=True, text=True, timeout=1200,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return json.loads((where / "found.json").read_text()), where


def test_plan_of_a_step_on_eight_devices(planned):
  (status, said, error), where = planned[0]["eight devices"], planned[1]
  assert status == 0, error
  found = json.loads((where / "eight.json").read_text())
  assert found["fits"] is True and found["devices"] == 8
  assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
  assert 0 < found["peak_bytes"] < found["hbm_bytes"]
  # Sharded four ways where shapes allow: between a quarter and the whole.
  assert found["parameters"] * 4 / 4 <= found["parameter_bytes"] < found["parameters"] * 4
  assert found["flops"] >= found["model_flops"] * 0.95 > 0
  assert 0 < found["mfu_bound"] <= 1
  assert found["collectives"]["all-reduce"]["bytes"] > 0
  for word in ("fits", "optimiser state", "all-reduce", "MFU at most"):
    assert word in said


def test_a_step_for_tpus_has_our_kernels_in_it(planned):
  pytest.importorskip("libtpu", reason="needs the [plan] extra")
  (status, _, error), where = planned[0]["tpu"], planned[1]
  assert status == 0, error
  found = json.loads((where / "tpu.json").read_text())
  assert found["fits"] is True and found["mesh"] == {"data": 2, "fsdp": 1, "tensor": 2}
  # 3 blocks of two SRU layers, forward and backward, and of one cross-attention.
  assert found["custom_calls"]["tpu_custom_call"] >= 3 * (2 * 2 + 3)
  assert found["collectives"]["all-reduce"]["bytes"] > 0


def test_a_chip_of_two_cores_is_one_device(planned):
  pytest.importorskip("libtpu", reason="needs the [plan] extra")
  status, said, error = planned[0]["two cores"]
  assert status == 0, error
  assert "v4:2x2x1: 4 devices" in said


def test_two_slices_talk_over_the_network_and_tensor_stays_inside(planned):
  pytest.importorskip("libtpu", reason="needs the [plan] extra")
  (status, said, error), where = planned[0]["two slices"], planned[1]
  assert status == 0, error
  found = json.loads((where / "slices.json").read_text())
  assert found["slices"] == 2 and found["devices"] == 8
  # The gradients cross once a step: of two slices each sends its share of them, whole.
  share = found["parameter_bytes"]
  assert 0.5 * share < found["between_slices"]["bytes"] < 4 * share
  assert found["dcn_seconds"] == pytest.approx(found["between_slices"]["bytes"] / 3.125e9)
  assert "2 x v5e:2x2" in said and "between 2 slices" in said


def test_a_search_compiles_what_can_be_laid_out_and_names_the_best(planned):
  (status, said, error), where = planned[0]["search"], planned[1]
  assert status == 0, error
  found = json.loads((where / "search.json").read_text())
  # One row divides over tensor 8 alone; then there are the ways to recompute.
  assert found["mesh"] == {"data": 1, "fsdp": 1, "tensor": 8}
  kinds = [plan["settings"]["model.remat"] for plan in found["tried"]]
  assert sorted(kinds) == ["dots", "full", "none"]
  bounds = [plan["mfu_bound"] for plan in found["tried"]]
  assert bounds == sorted(bounds, reverse=True) and found["mfu_bound"] == bounds[0] > 0
  assert f"--config.model.remat={kinds[0]}" in said.splitlines()[-1]
  assert said.splitlines()[-1].startswith("best: --config.train.accumulate=1")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("no slices", "--slices=2 takes a TPU"),
    ("no number", "--slices=two: a number of slices"),
    ("search for a sampler", "--search goes with a training config"),
    ("no topology", "--topology=NAME is missing"),
    ("no such chip", "topology 'v9:2x2'"),
    ("two dimensions", "v4 has 3 dimension"),
    ("no training", "must be a training config"),
    ("batch", "train.batch_size 4 does not divide over 8"),
    ("no directory", "does not exist"),
  ],
)
def test_bad_input_is_one_line(planned, name, message):
  status, _, error = planned[0][name]
  assert status == 2 and message in error
  assert len(error.strip().splitlines()) == 1, error


def test_the_nearest_setting_that_fits_is_named(monkeypatch):
  import jax

  config = load_config("vae", "tiny")
  config.loss.adversarial = 0.0
  config.train.batch_size = 8
  here = topology.Topology("cpu:1", topology.CPU, jax.devices()[:1])
  whole = train_plan.plan_step(config, here)
  assert whole.fits
  state = whole.parameter_bytes + whole.optimizer_bytes + whole.ema_bytes
  room = (state + 0.7 * whole.activation_bytes) / train_plan.HBM_SHARE
  small = topology.Topology(
    "cpu:1", dataclasses.replace(topology.CPU, hbm_bytes=int(room)), jax.devices()[:1]
  )
  assert not train_plan.plan_step(config, small).fits
  nearest = train_plan.nearest_fit(config, small, lambda line: None)
  assert nearest is not None and nearest.fits
  assert nearest.settings["train.accumulate"] > 1
  # The same work in smaller parts.
  assert nearest.flops == pytest.approx(whole.flops, rel=0.05)


def test_out_of_memory_messages_are_understood():
  error = RuntimeError(
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
    " Used 21.24G of 15.75G hbm. Exceeded hbm capacity by 5.49G."
  )
  assert train_plan.needed_bytes(error) == pytest.approx(21.24 * 2**30)
  error = RuntimeError(
    "Ran out of memory on HBM, the total memory required for HLO temporaries (49.50GiB) exceeds"
    " available HBM (15.75GiB). HLO module: jit_train_step."
  )
  assert train_plan.needed_bytes(error) == pytest.approx(49.5 * 2**30)
  assert train_plan.needed_bytes(RuntimeError("INTERNAL: something else")) is None


def test_a_topology_that_makes_no_sense():
  with pytest.raises(UserError, match="as in v5e:16x16"):
    topology.parse("16x16")
