"""All processes of a run report to process 0 before JAX connects them.

Where a process is missing, JAX's own start ends in an abort from C++ that names no process. The
roll call tells all processes which ones are missing, which ones were started with another number of
processes, and which id was given twice.

Protocol: one TCP connection per process and one line of JSON in each direction. A process sends
{"id", "count", "host"}; process 0 answers {"hosts": [...]} or {"error": "..."}.
"""

import json
import selectors
import socket
import sys
import time

from melody_jax.errors import UserError

_POLL = 0.5  # s between two looks at the connections, and between two attempts to connect
_TELL_EVERY = 30.0  # s between two lines that say who is missing
_MAX_LINE = 1 << 22  # bytes; a stranger on the port must not fill the memory


def roll_call(address: str, count: int, process_id: int, timeout: float) -> list[str]:
  """Waits until all processes of the run have reported.

  Args:
    address: host:port of process 0.
    count: Number of processes of the run.
    process_id: Id of this process.
    timeout: Seconds to wait.

  Returns:
    Host names of all processes, in the order of their ids.

  Raises:
    UserError: with the same message on all processes that came, if they are not complete after
      `timeout` seconds or do not fit together.
  """
  host, port = address.rsplit(":", 1)
  # The count too: processes of two runs that share an address by mistake find out here.
  me = {"id": process_id, "count": count, "host": socket.gethostname()}
  deadline = time.monotonic() + timeout
  if process_id == 0:
    return _lead(address, int(port), me, deadline, timeout)
  return _follow(host.strip("[]"), int(port), me, deadline, timeout)


def _tell(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _listen(port: int) -> socket.socket:
  """A listening socket on all interfaces of this host.

  Raises:
    UserError: if the port is taken.
  """
  try:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=dual)
  except OSError as error:
    raise UserError(
      f"process 0 cannot listen on port {port} ({error.strerror}): another run may be using it;"
      " give all hosts another port in MELODY_COORDINATOR=host:port"
    ) from error


class _Present:
  """The processes that have reported: their connections and host names by id."""

  def __init__(self, me: dict):
    self.count = me["count"]
    self.hosts: dict[int, str] = {0: me["host"]}
    self.connections: dict[int, socket.socket] = {}

  @property
  def missing(self) -> list[int]:
    return [i for i in range(self.count) if i not in self.hosts]

  def report(self, said: dict, connection: socket.socket) -> None:
    """Notes a process; raises UserError if it does not fit the others."""
    who, count, host = int(said["id"]), int(said["count"]), str(said["host"])
    if count != self.count or not 0 <= who < count:
      raise UserError(
        f"process {who} on {host} was started as one of {count}, process 0 on {self.hosts[0]} as"
        f" one of {self.count}: give every host the same MELODY_NUM_PROCESSES"
      )
    if who in self.hosts:
      raise UserError(
        f"process id {who} is claimed on {self.hosts[who]} and on {host}: give every process a"
        " MELODY_PROCESS_ID of its own"
      )
    self.hosts[who], self.connections[who] = host, connection

  def forget(self, connection: socket.socket) -> None:
    """Removes a process that hung up before all were there; it may come again."""
    for i, known in list(self.connections.items()):
      if known is connection:
        del self.hosts[i], self.connections[i]

  def answer(self, message: dict) -> None:
    """Sends `message` to all processes, and waits until they hang up."""
    data = json.dumps(message).encode() + b"\n"
    for connection in self.connections.values():
      try:
        # One process that died meanwhile must not keep the others from their answer.
        connection.settimeout(5)
        connection.sendall(data)
      except OSError:
        continue
    for connection in self.connections.values():
      try:
        # TCP keeps the port of the side that hangs up first busy for a while (TIME_WAIT). JAX needs
        # this port next, so the other side has to be first.
        connection.settimeout(1)
        connection.recv(1)
      except OSError:
        pass
      connection.close()


def _lead(address: str, port: int, me: dict, deadline: float, timeout: float) -> list[str]:
  present = _Present(me)
  with _listen(port) as server, selectors.DefaultSelector() as selector:
    # One thread for all: thousands of hosts may call at once.
    server.setblocking(False)
    selector.register(server, selectors.EVENT_READ, None)
    try:
      _collect(server, selector, present, address, deadline, timeout)
    except UserError as error:
      present.answer({"error": str(error)})
      raise
    # In order of ids, as messages about a lost process look them up.
    hosts = [present.hosts[i] for i in range(present.count)]
    present.answer({"hosts": hosts})
  return hosts


def _collect(server, selector, present: _Present, address, deadline, timeout) -> None:
  """Accepts connections and reads from them until nobody is missing."""
  next_line = time.monotonic() + _TELL_EVERY
  while present.missing:
    now = time.monotonic()
    names = ", ".join(map(str, present.missing[:20])) + (
      " ..." if len(present.missing) > 20 else ""
    )
    if now > deadline:
      raise UserError(
        f"{len(present.hosts)} of {present.count} processes came to {address} in {timeout:g} s;"
        f" missing: process {names}. Check that they were started, with the same"
        " MELODY_COORDINATOR, and that a firewall lets them reach that port"
      )
    if now > next_line:
      _tell(f"waiting at {address} for process {names}")
      next_line = now + _TELL_EVERY
    for key, _ in selector.select(_POLL):
      if key.data is None:
        connection, _ = server.accept()
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, bytearray())
      else:
        _read(selector, key, present)


def _read(selector, key, present: _Present) -> None:
  """Reads what came on one connection; hangs up on anything that is not a process of a run."""
  connection, heard = key.fileobj, key.data
  try:
    data = connection.recv(1 << 16)
  except OSError:
    data = b""
  heard += data
  if not data or len(heard) > _MAX_LINE:
    selector.unregister(connection)
    present.forget(connection)
    connection.close()
  # TCP may deliver a line in pieces: only a whole one is read.
  elif heard.endswith(b"\n"):
    heard_line = bytes(heard)
    heard.clear()
    try:
      said = json.loads(heard_line)
      said = {k: said[k] for k in ("id", "count", "host")}
    except (ValueError, KeyError, TypeError):
      selector.unregister(connection)
      connection.close()
      return
    try:
      present.report(said, connection)
    except UserError as error:
      connection.setblocking(True)
      connection.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
      raise


def _follow(host: str, port: int, me: dict, deadline: float, timeout: float) -> list[str]:
  reason = "no answer"
  next_line = time.monotonic() + _TELL_EVERY
  while time.monotonic() < deadline:
    try:
      with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(json.dumps(me).encode() + b"\n")
        # Longer than process 0 waits: it gives up first, and its answer says why.
        connection.settimeout(max(1.0, deadline + 15 - time.monotonic()))
        with connection.makefile("rb") as lines:
          answer = json.loads(lines.readline(_MAX_LINE) or b"null")
      if isinstance(answer, dict) and "hosts" in answer:
        return [str(h) for h in answer["hosts"]]
      if isinstance(answer, dict) and "error" in answer:
        raise UserError(str(answer["error"]))
      # A dying run on the same port looks like this: trying again is right.
      reason = "it hung up"
    except socket.gaierror as error:
      reason = f"its name is not known here ({error.strerror})"
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if time.monotonic() > next_line:
      _tell(f"waiting for process 0 at {host}:{port}: {reason}")
      next_line = time.monotonic() + _TELL_EVERY
    time.sleep(_POLL)
  raise UserError(
    f"process 0 was not reached at {host}:{port} in {timeout:g} s ({reason}): check the address in"
    " MELODY_COORDINATOR, that process 0 was started on that host, and the firewall"
  )
