"""Turns the runtime's abort about a lost host into one line.

When another host of a run dies, JAX's coordination service ends this process from C++: it prints a
status of several lines and a stack of addresses, then raises SIGABRT. No Python code can run before
that: a Python callback cannot receive the status and ends in std::bad_cast (jaxlib 0.10). So a
small child process reads the standard error of a run of several hosts. It passes everything on as
it comes, and replaces the text of that abort by one line that says what happened.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys

_FATAL = re.compile(rb"Terminating process because the JAX distributed service|F\d{4} .*client\.h:")
_STACK = b"*** Check failure stack trace"
_PATIENCE = 1.0  # s; a longer silence inside the text of an abort means that the rest is lost

# Kept in a global: garbage collection of a running Popen warns, and polls the child.
_child: subprocess.Popen | None = None


def install(program: str, hosts: list[str]) -> None:
  """Puts the filter between this process and its standard error. A second call does nothing.

  Args:
    program: Name of the command, for the message.
    hosts: Host names of all processes, in the order of their ids.
  """
  global _child
  if _child is not None:
    return
  sys.stderr.flush()
  reading, writing = os.pipe()
  # Isolated and without site-packages, the child starts in about 30 ms and imports nothing of ours.
  _child = subprocess.Popen(
    [sys.executable, "-I", "-S", os.path.abspath(__file__), program, json.dumps(hosts)],
    stdin=reading,
    stdout=subprocess.DEVNULL,
    # A terminal sends Ctrl-C to the whole process group; the filter has to outlive the run.
    start_new_session=True,
  )
  os.close(reading)
  os.dup2(writing, 2)
  os.close(writing)


def explain(status: str, hosts: list[str]) -> str:
  """Says what a status of the coordination service means, and what to do.

  Args:
    status: Text of the status, of one or several lines.
    hosts: Host names of all processes, in the order of their ids.
  """

  def name(i: int) -> str:
    return f"process {i} ({hosts[i]})" if i < len(hosts) else f"process {i}"

  again = "Run the same command on all hosts again: training goes on from its last checkpoint"
  silent = re.search(r"stopped sending heartbeats\):?((?:\s*[\w:/ ]*?\d+\s*?\n)+)", status + "\n")
  if silent:
    # Lines look like "/job:jax_worker/replica:0/task:3": the id comes last.
    ids = sorted(
      {int(line.split(":")[-1].split("/")[-1]) for line in silent[1].split("\n") if line}
    )
    who = ", ".join(name(i) for i in ids)
    return f"lost {who}: killed, out of memory, or its machine is gone; see its log. {again}"
  # More exact reasons come first; the last ones match almost anything.
  if "RegisterTask" in status:
    return f"the hosts did not all connect to {name(0)}: {first_line(status)}. {again}"
  if "Failed to send RPC" in status or "UNAVAILABLE" in status:
    return f"lost {name(0)}, which all hosts report to; see its log. {again}"
  if "shutdown" in status.lower():
    return f"another host had ended before this one was done; see the logs of all. {again}"
  return f"the hosts of this run lost each other: {first_line(status)}. {again}"


def first_line(text: str, empty: str = "no reason given") -> str:
  """The first line of a text, at most 200 characters; `empty` where there is none."""
  return (text.strip().splitlines() or [empty])[0][:200]


class Filter:
  """State of the child process: passes bytes on until the text of an abort begins.

  Args:
    program: Name of the command, for the message.
    hosts: Host names of all processes, in the order of their ids.
  """

  def __init__(self, program: str, hosts: list[str]):
    self._program = program
    self._hosts = hosts
    self._pending = b""  # a line that may turn out to be the abort's first
    self._abort: bytes | None = None  # its text so far
    self._told = False

  @property
  def waiting(self) -> bool:
    """Whether the text of an abort has begun and its end has not been seen."""
    return self._abort is not None and not self._told

  def feed(self, data: bytes) -> bytes:
    """Takes bytes that the run wrote; returns the bytes to pass on."""
    # What follows the abort is a stack of addresses, of no use to a reader.
    if self._told:
      return b""
    if self._abort is not None:
      self._abort += data
      return self.finish() if _STACK in self._abort else b""
    data = self._pending + data
    found = _FATAL.search(data)
    if found:
      start = data.rfind(b"\n", 0, found.start()) + 1
      before, self._pending, self._abort = data[:start], b"", b""
      return before + self.feed(data[start:])
    # Only a line that may be the first of an abort is held back until it is complete. Other lines
    # pass at once, because progress bars do not end in a newline.
    last = data[data.rfind(b"\n") + 1 :]
    held = last if re.match(rb"F\d{0,4}( |$)", last) else b""
    self._pending = held
    return data[: len(data) - len(held)]

  def finish(self) -> bytes:
    """The line that replaces the text of the abort; without an abort, what was held back."""
    if self._told or self._abort is None:
      return self._pending
    self._told = True
    text = self._abort.split(_STACK)[0].decode(errors="replace")
    status = text.split("absl::Status:")[-1].strip()
    return f"{self._program}: error: {explain(status, self._hosts)}\n".encode()


def _main(program: str, hosts: list[str]) -> None:
  # Schedulers send the signal that announces the end to every process of a job. This process has to
  # outlive the run: without a reader, the run's next line on standard error would fail.
  for announced in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(announced, signal.SIG_IGN)
  state = Filter(program, hosts)
  while True:
    if state.waiting and not select.select([0], [], [], _PATIENCE)[0]:
      os.write(2, state.finish())
      continue
    data = os.read(0, 1 << 16)
    passed = state.feed(data) if data else state.finish()
    if passed:
      os.write(2, passed)
    if not data:
      return


if __name__ == "__main__":
  _main(sys.argv[1], json.loads(sys.argv[2]))
