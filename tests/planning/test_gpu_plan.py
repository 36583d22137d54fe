"""Plans for NVIDIA cards by the compiler for CUDA, without a card."""

import json
import os
import subprocess
import sys

import pytest

from melody_jax.errors import UserError
from melody_jax.host.chips import GPUS, peak_flops
from melody_jax.planning import gpu_target, topology
from tests.training.processes import environment


@pytest.mark.parametrize("name", GPUS)
def test_a_card_is_described_by_what_its_maker_says(name):
  chip, shape = topology.parse(f"{name}x4")
  assert chip is GPUS[name] and shape == (4,)
  text = gpu_target.description(chip)
  assert f"device_memory_size: {chip.hbm_bytes}\n" in text
  assert f"memory_bandwidth: {int(chip.hbm_bandwidth)}\n" in text
  assert text.count("{") == text.count("}")
  assert peak_flops(chip.kind) == chip.flops


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("h100x0", "number of GPUs in h100x0"),
    ("h100x9", "number of GPUs in h100x9"),
    ("v100x8", "or GPUs of one host .a100, h100, h200, b200., as in h100x8"),
    ("h100:8", "or GPUs of one host"),
  ],
)
def test_names_that_are_no_cards_of_one_host_are_refused(name, message):
  with pytest.raises(UserError, match=message):
    topology.parse(name)


def test_slices_are_for_tpus():
  with pytest.raises(UserError, match="--slices=2 takes a TPU"):
    topology.open_topology("h100x8", 2)


def test_without_the_compiler_the_extra_is_named(monkeypatch):
  monkeypatch.setattr(gpu_target, "has_compiler", lambda: False)
  with pytest.raises(UserError, match="gpu_plan"):
    topology.open_topology("h100x1")


@pytest.mark.skipif(not gpu_target.has_compiler(), reason="needs the [gpu_plan] extra")
def test_a_step_for_gpus_has_our_kernels_and_cudnns_in_it(repository, tmp_path):
  arguments = (
    "--config=configs/dpd.py:tiny", "--topology=h100x2", f"--out={tmp_path}/gpu.json",
    "--config.train.batch_size=4", "--config.mesh.fsdp=2", "--config.model.dtype=bfloat16",
    "--config.window_seconds=1", "--config.model.n_blocks=1",
  )  # fmt: skip
  done = subprocess.run(
    [sys.executable, "-m", "melody_jax.plan", *arguments],
    cwd=repository, env=environment(1) | {"PYTHONPATH": os.pathsep.join(sys.path)},
    capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / "gpu.json").read_text())
  assert found["fits"] is True and found["mesh"] == {"data": 1, "fsdp": 2, "tensor": 1}
  assert 0 < found["peak_bytes"] < 80 * 2**30 and found["bytes_accessed"] > 0
  calls = found["custom_calls"]
  # A block of two SRU layers, forward and backward; attention to itself, across segments, to
  # tokens, whose queries and keys would not lie alike by themselves.
  assert calls["__gpu$xla.gpu.triton"] == 2 * 2, calls
  assert calls["__cudnn$fmhaSoftmax"] == calls["__cudnn$fmhaSoftmaxBackward"] == 3, calls
  # Parameters are gathered, not activations added up.
  assert "all-gather" in found["collectives"]
