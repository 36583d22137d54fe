"""Every model in two processes of four devices each, evaluated, killed and gone on with.

One pair of processes runs all five, so that JAX is imported once in each.
"""

import re
import signal
import struct

import jax
import numpy as np
import pytest

from melody_jax.task import TASKS
from melody_jax.training import loop
from melody_jax.training.checkpoint import load_params
from tests.training.datasets import run_config, write_audio, write_encoded
from tests.training.processes import pair

pytestmark = pytest.mark.long  # some six minutes of two cores

STEPS = 4
VICTIM = "lm"  # killed in the middle of its run; the others go on from a run that has ended


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  write_audio(root / "audio")
  write_encoded(root / "encoded")
  return root


@pytest.fixture(scope="module")
def together(data, tmp_path_factory, request):
  """Directory of the runs, and what process 0 said before and after the kill."""
  root = tmp_path_factory.mktemp("together")
  # Compiling takes most of the time, and processes on CPUs do not share what they compiled.
  monkeypatch = pytest.MonkeyPatch()
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  request.addfinalizer(monkeypatch.undo)
  command = ["-m", "tests.training.five_runs", str(data), str(root)]
  killed, said = pair([*command, "2", VICTIM]), []
  assert killed[0].stderr
  for line in killed[0].stderr:
    said.append(line)
    # After the checkpoint of step 2, before that of step 4 can be whole.
    if line.startswith("step 3/1000000"):
      break
  for process in killed:
    process.send_signal(signal.SIGKILL)
  for process in killed:
    process.communicate()
  assert line.startswith("step 3/1000000"), "".join(said)
  again = pair([*command, str(STEPS)])
  told = [process.communicate(timeout=500)[1] for process in again]
  assert [process.returncode for process in again] == [0, 0], told
  # The compiler may warn, on both; of the run process 0 alone speaks.
  assert not re.search(r"^step |: step ", told[1], re.MULTILINE), told[1]
  return root, "".join(said), told[0]


@pytest.mark.parametrize("model", TASKS)
def test_two_processes_killed_and_resumed_equal_one(together, data, tmp_path, model):
  root, before, after = together
  alone = loop.train(run_config(model, data, STEPS), tmp_path)
  (a, _), (b, step) = load_params(tmp_path), load_params(root / model)
  assert step == STEPS == int(alone.step)
  born, differences = [], []
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    born.append(np.abs(x).max())
    differences.append(np.abs(x - y).max() if x.size else 0.0)
  assert max(born) > 1e-3 and max(differences) < 2e-5
  assert f"{model}: step 0 of" in before and f"{model}: step 2 of {STEPS} on 8 cpu" in after
  # Validation, by both processes, before the kill and after it.
  assert before.count("step 2 validation") == len(TASKS)
  assert after.count(f"step {STEPS} validation") == len(TASKS)


def events_of(file: bytes):
  """Events of a TensorBoard file: each between a length of 8 bytes, and two checksums of 4."""
  from tensorboardX.proto.event_pb2 import Event

  place = 0
  while place < len(file):
    (length,) = struct.unpack("<Q", file[place : place + 8])
    yield Event.FromString(file[place + 12 : place + 12 + length])
    place += 16 + length


def test_sounds_and_pictures_of_two_processes_are_written(together):
  root, *_ = together
  seen = {}
  for path in (root / "vae" / "tensorboard").iterdir():
    for event in events_of(path.read_bytes()):
      for value in event.summary.value:
        seen.setdefault(value.tag, []).append((event.step, value.WhichOneof("value")))
  assert seen["audio/reconstruction/3"] == [(2, "audio"), (STEPS, "audio")]
  assert "audio/reconstruction/4" not in seen
