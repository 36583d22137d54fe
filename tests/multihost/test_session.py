"""Runs of several processes: who takes part, and what each says when one of them is lost."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from melody_jax.errors import UserError
from melody_jax.multihost import roll_call, session, stderr_filter
from melody_jax.multihost.membership import Membership, MembershipSettings, detect

SLURM = {
  "SLURM_JOB_ID": "123",
  "SLURM_STEP_ID": "0",
  "SLURM_STEP_NODELIST": "gpu[03-07,9],login1",
  "SLURM_STEP_NUM_TASKS": "6",
  "SLURM_STEP_NUM_NODES": "6",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
  "SLURM_NTASKS": "6",
}
EXPLICIT = {
  "MELODY_COORDINATOR": "node1:8476",
  "MELODY_NUM_PROCESSES": "4",
  "MELODY_PROCESS_ID": "3",
}


def test_a_process_alone():
  assert detect({}) == Membership("single")
  assert detect({"MELODY_NUM_PROCESSES": "1"}) == Membership("single")
  # A batch script is not a step, and a shell in an allocation is a step of one task.
  assert detect({k: v for k, v in SLURM.items() if "STEP" not in k}) == Membership("single")
  assert detect({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) == Membership("single")


def test_explicit_settings_from_config_or_environment():
  assert detect(EXPLICIT) == Membership("explicit", "node1:8476", 4, 3)
  settings = MembershipSettings(coordinator="[fd00::1]:99", num_processes=2, process_id=0)
  assert detect({}, settings) == Membership("explicit", "[fd00::1]:99", 2, 0)
  assert detect(EXPLICIT, MembershipSettings(process_id=1)).process_id == 1


def test_slurm():
  assert detect(SLURM) == Membership("slurm", "gpu03:61563", 6, 2)
  # Two steps of one job do not meet at one port.
  assert detect({**SLURM, "SLURM_STEP_ID": "1"}).coordinator == "gpu03:61564"
  # An address of one's own, the rest from Slurm.
  mixed = detect({**SLURM, "MELODY_COORDINATOR": "gpu03:8476"})
  assert mixed == Membership("explicit", "gpu03:8476", 6, 2)


@pytest.mark.parametrize(
  "nodes, first",
  [
    ("a", "a"),
    ("a1,b2", "a1"),
    ("n[7,9]", "n7"),
    ("r[1-2]n[3-4],x", "r1n3"),
    ("n-[01-10]", "n-01"),
  ],
)
def test_first_host_of_a_slurm_list(nodes, first):
  plan = detect({**SLURM, "SLURM_STEP_NODELIST": nodes})
  assert plan.coordinator.rsplit(":", 1)[0] == first


def test_slurm_with_one_task_for_each_gpu():
  step = {**SLURM, "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "1"}
  assert detect(step).local_device_ids == (1,)
  assert detect({**step, "CUDA_VISIBLE_DEVICES": "0,1,2"}).local_device_ids == (1,)
  # Slurm has bound the task's GPU: it is the only one here.
  assert detect({**step, "CUDA_VISIBLE_DEVICES": "5"}).local_device_ids is None


def test_tpu():
  gke = {"TPU_WORKER_HOSTNAMES": "h0,h1,h2,h3", "TPU_WORKER_ID": "2"}
  assert detect(gke) == Membership("tpu", num_processes=4, process_id=2)
  slices = {**gke, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
  assert detect(slices) == Membership("tpu", num_processes=8, process_id=6)
  assert detect({"TPU_WORKER_HOSTNAMES": "localhost"}) == Membership("single")
  # A TPU VM outside GKE: its metadata server knows.
  assert detect({}, on_tpu_vm=True) == Membership("tpu", num_processes=0)
  assert detect({"JAX_PLATFORMS": "cpu"}, on_tpu_vm=True) == Membership("single")


@pytest.mark.parametrize(
  "environ, message",
  [
    ({**EXPLICIT, "MELODY_PROCESS_ID": "4"}, "process id 4 of 4 processes: ids go from 0 to 3"),
    ({**EXPLICIT, "MELODY_COORDINATOR": "node1"}, "must be host:port of process 0"),
    ({**EXPLICIT, "MELODY_COORDINATOR": "http://node1:80"}, "must be host:port"),
    ({**EXPLICIT, "MELODY_COORDINATOR": "node1:99999"}, "must be host:port"),
    ({**EXPLICIT, "MELODY_NUM_PROCESSES": "many"}, "MELODY_NUM_PROCESSES is 'many'"),
    ({**EXPLICIT, "MELODY_NUM_PROCESSES": "-2"}, "at least 1"),
    ({"MELODY_COORDINATOR": "a:1"}, "also needs MELODY_NUM_PROCESSES, MELODY_PROCESS_ID"),
    ({"MELODY_NUM_PROCESSES": "2"}, "also needs MELODY_COORDINATOR"),
  ],
)
def test_bad_settings(environ, message):
  with pytest.raises(UserError, match=message):
    detect(environ)


def test_alone_nothing_is_waited_for():
  assert session.is_lead()
  session.barrier("anything", 1)
  session.every_host_has_data(1, "shards")
  with pytest.raises(UserError, match="no shards"):
    session.every_host_has_data(0, "shards")
  with pytest.raises(UserError, match="its own"), session.session():
    raise UserError("its own")


def free_port() -> int:
  with socket.create_server(("", 0)) as server:
    return server.getsockname()[1]


def calls(*arguments):
  """Roll calls side by side; {argument: host names or error text}."""
  results = {}

  def call(key, *call_arguments):
    try:
      results[key] = roll_call.roll_call(*call_arguments)
    except UserError as error:
      results[key] = str(error)

  threads = [threading.Thread(target=call, args=(i, *a)) for i, a in enumerate(arguments)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(timeout=30)
  return results


def test_roll_call_is_complete():
  where = f"localhost:{free_port()}"
  results = calls(*[(where, 3, i, 20) for i in range(3)])
  assert list(results.values()) == [[socket.gethostname()] * 3] * 3
  # The port is free again at once: JAX listens there next.
  socket.create_server(("", int(where.split(":")[1]))).close()


def test_roll_call_names_the_missing_to_all_that_came():
  where = f"localhost:{free_port()}"
  results = calls((where, 4, 0, 2), (where, 4, 2, 2))
  assert results[0] == results[1]
  assert "2 of 4 processes came" in results[0] and "missing: process 1, 3." in results[0]


def test_roll_call_finds_contradictions():
  where = f"localhost:{free_port()}"
  results = calls((where, 2, 0, 10), (where, 3, 2, 10))
  assert results[0] == results[1] and "one of 3, process 0 on" in results[0]
  where = f"localhost:{free_port()}"
  results = calls((where, 3, 0, 10), (where, 3, 1, 10), (where, 3, 1, 10))
  assert all("process id 1 is claimed on" in text for text in results.values())


def test_roll_call_without_process_0():
  (text,) = calls((f"localhost:{free_port()}", 2, 1, 1)).values()
  assert "process 0 was not reached at localhost" in text and "refused" in text
  (text,) = calls(("no-such-host.invalid:8476", 2, 1, 1)).values()
  assert "its name is not known here" in text
  with socket.create_server(("", 0)) as taken:
    port = taken.getsockname()[1]
    (text,) = calls((f"localhost:{port}", 2, 0, 1)).values()
  assert f"cannot listen on port {port}" in text


ABORT = b"""F1122 18:33:54.694001 492 client.h:80] Terminating process because the JAX distributed \
service detected fatal errors. This most likely indicates that another task died. absl::Status: \
UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
3
The tasks have crashed. Check the task logs for an earlier error.

RPC: /xla.coordination.CoordinationService/PollForError
*** Check failure stack trace: ***
    @     0x7fea87040634  absl::log_internal::LogMessage::SendToLog()
"""


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_an_abort_becomes_one_line_wherever_it_is_cut(size):
  state = stderr_filter.Filter("train", ["a", "b", "c", "d"])
  text = b"step 1\nFinished 3 \r 50 %|##  " + b"\n" + ABORT + ABORT
  out = b"".join(state.feed(text[i : i + size]) for i in range(0, len(text), size))
  out += state.finish()
  before, line = out[: out.index(b"train: error")], out[out.index(b"train: error") :]
  assert before == b"step 1\nFinished 3 \r 50 %|##  \n"
  assert line.count(b"\n") == 1
  assert b"lost process 1 (b), process 3 (d): killed, out of memory" in line


def test_other_lines_pass_as_they_come():
  state = stderr_filter.Filter("train", [])
  assert state.feed(b" 10 %") == b" 10 %"
  assert state.feed(b"\rF1122 10:00 x.cc:1] Check failed\n") == (
    b"\rF1122 10:00 x.cc:1] Check failed\n"
  )
  assert state.finish() == b""


def test_the_filter_outlives_the_signals_that_end_a_job():
  child = subprocess.Popen(
    [sys.executable, "-I", "-S", stderr_filter.__file__, "train", "[]"],
    stdin=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  child.stdin.write(b"before\n")
  child.stdin.flush()
  assert child.stderr.readline() == b"before\n"
  for announced in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    child.send_signal(announced)
  _, after = child.communicate(b"saved\n", timeout=30)
  assert after == b"saved\n" and child.returncode == 0


@pytest.mark.parametrize(
  "status, meaning",
  [
    ("UNAVAILABLE: Failed to send RPC to coordination service.", "lost process 0 (a), which"),
    ("DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /x/RegisterTask", "did not all connect"),
    ("INTERNAL: something new\nmore", "lost each other: INTERNAL: something new."),
    ("", "no reason given"),
  ],
)
def test_what_an_abort_means(status, meaning):
  assert meaning in stderr_filter.explain(status, ["a", "b"])


WORKER = """
import os, signal, sys, time
from melody_jax.multihost import session
sys.argv[0] = "train"
me = int(os.environ["MELODY_PROCESS_ID"])
with session.session({"start_timeout": 60, "heartbeat_timeout": 10}):
  import jax, jax.numpy as jnp, numpy as np
  mesh = jax.make_mesh((4,), ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  x = jax.make_array_from_process_local_data(rows, np.arange(2.0) + 10 * me)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  total = float(jax.jit(jnp.sum, out_shardings=whole)(x))
  print("sum", total, jax.process_count(), session.is_lead(), flush=True)
  session.every_host_has_data(2, "shards")
  if sys.argv[1] == "no_data":
    session.every_host_has_data(me, "training windows")
  session.barrier("go", 60)
  print("ready", flush=True)
  if sys.argv[1] == "killed" and me == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  if sys.argv[1] == "killed":
    time.sleep(120)
"""


def run_two(action, repository, **more):
  """Two processes of WORKER: [(status, standard output, standard error)], and the seconds that
  the first lived on after the second.
  """
  environ = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "PYTHONPATH": str(repository),
    "MELODY_COORDINATOR": f"localhost:{free_port()}",
    "MELODY_NUM_PROCESSES": "2",
    **more,
  }
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, action],
      env={**environ, "MELODY_PROCESS_ID": str(i)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    second = processes[1].communicate(timeout=120)
    ended = time.monotonic()
    first = processes[0].communicate(timeout=120)
  finally:
    for process in processes:
      process.kill()
  results = [(p.returncode, *out) for p, out in zip(processes, (first, second), strict=True)]
  return results, time.monotonic() - ended


def test_two_processes_compute_together_and_notice_missing_data(repository, tmp_path):
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  results, _ = run_two("no_data", repository, **cache)
  # On CPUs process 0 alone would find its programs again, of other order than the others'.
  assert not list(tmp_path.iterdir())
  for status, out, err in results:
    assert "sum 22.0 2" in out
    assert status == session.EXIT_BAD_INPUT
    (line,) = [text for text in err.splitlines() if "error" in text]
    assert "no training windows for process 0 (" in line and "1 in all for 2" in line
    assert "ready" not in out


def test_a_killed_process_ends_the_other(repository):
  ((status, out, err), (killed, _, _)), seconds = run_two("killed", repository)
  assert killed == -signal.SIGKILL
  assert "ready" in out
  assert status != 0
  assert seconds < 60
  assert "train: error: lost process 1 (" in err
  assert "stack trace" not in err and "0x" not in err


def test_failures_are_told_apart():
  import jax

  assert session._verdict(UserError("x")) == (session.EXIT_BAD_INPUT, "x")
  lost = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
  assert session._verdict(lost)[0] == session.EXIT_TRY_AGAIN
  full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
  assert session._verdict(full)[0] == session.EXIT_BUG
