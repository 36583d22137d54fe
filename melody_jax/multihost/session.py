"""Several processes, on one host or many, as one run.

A command does its work inside `session`. It finds out which processes belong to the run
(`melody_jax.multihost.membership`), connects them before anything touches a device, and makes sure
that none of them waits for ever. A process that fails tells the others why. A process that is
killed is missed within half a minute. In both cases all processes end with one line and a status
other than 0. A process that runs alone sets up nothing.
"""

import atexit
from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
import re
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

import jax

from melody_jax.command_line import signals
from melody_jax.command_line.endings import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from melody_jax.command_line.streams import flush_stdout
from melody_jax.errors import UserError
from melody_jax.multihost.membership import Membership, MembershipSettings, detect
from melody_jax.multihost.roll_call import roll_call
from melody_jax.multihost.stderr_filter import first_line, install

EXIT_BUG = 1
EXIT_TRY_AGAIN = 75  # "temporary failure" of sysexits.h: the same command may well succeed

_KEYS = "melody_jax"  # prefix of this module's keys in the store of JAX's coordination service
_POLL = 2.0  # s between two looks at the notes of other processes in that store
_CONNECT_TIMEOUT = 120  # s; the roll call has just seen every process
_END_TIMEOUT = 7 * 24 * 3600  # s; failures and deaths end this wait, work of another host does not
# Words in the errors of collectives on CPU, GPU and TPU when another process went away.
_LOST = re.compile(
  r"gloo|nccl|connection (reset|closed|refused)|socket closed|unavailable|coordination service",
  re.IGNORECASE,
)


def _on_tpu_vm() -> bool:
  # JAX finds this out at its import, but no public function tells it.
  from jax._src import cloud_tpu_init

  return bool(getattr(cloud_tpu_init, "running_in_cloud_tpu_vm", False))


def _state() -> Any:
  """JAX's own state: client (None in a process that runs alone), process_id, num_processes.

  JAX's public functions for these numbers would start the devices, too early.
  """
  from jax._src import distributed

  return distributed.global_state


def _client() -> Any:
  return _state().client


def _program() -> str:
  return pathlib.Path(sys.argv[0]).stem


def initialize(settings: Mapping[str, Any] | None = None) -> Membership:
  """Connects the processes of this run; before anything touches a device.

  Args:
    settings: config.distributed, or None.

  Returns:
    The plan by which they were connected.

  Raises:
    UserError: if the settings are wrong, or, on all processes that came, if some did not.
  """
  chosen = MembershipSettings(**dict(settings or {}))
  plan = detect(os.environ, chosen, _on_tpu_vm())
  if plan.environment == "single" or _client() is not None:
    return plan
  # CPUs have no other collectives between processes; other platforms ignore this setting.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  hosts: list[str] = []
  where: dict[str, Any] = {}
  if plan.coordinator:
    # Where an HTTP proxy is set, gRPC would go through it to a neighbour. JAX only warns of that.
    jax.config.update("jax_check_proxy_envs", False)
    # An IPv6 address has brackets around it and colons in it.
    name = plan.coordinator.rsplit(":", 1)[0].strip("[]")
    others = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy", "")  # noqa: SIM112
    os.environ["no_grpc_proxy"] = ",".join(filter(None, (others, name)))  # noqa: SIM112
    hosts = roll_call(plan.coordinator, plan.num_processes, plan.process_id, chosen.start_timeout)
    where = dict(
      coordinator_address=plan.coordinator,
      num_processes=plan.num_processes,
      process_id=plan.process_id,
      cluster_detection_method="deactivate",
      local_device_ids=plan.local_device_ids,
    )
  # After the roll call, whose own messages need no filter, and before JAX can abort.
  install(_program(), hosts)
  try:
    jax.distributed.initialize(
      initialization_timeout=_CONNECT_TIMEOUT if hosts else chosen.start_timeout,
      heartbeat_timeout_seconds=chosen.heartbeat_timeout,
      **where,
    )
  except (OSError, RuntimeError, ValueError) as error:
    if plan.environment == "tpu" and not plan.num_processes and isinstance(error, ValueError):
      return Membership("single")  # TPU chips, and no metadata that knows of other hosts
    raise UserError(f"the hosts of this run could not connect: {_first_line(error)}") from error
  client = _client()
  # For messages: a scheduler's user knows hosts, not process ids.
  client.key_value_set(f"{_KEYS}/host/{_state().process_id}", socket.gethostname())
  _watch.start(client)
  return plan


def _compile_alike() -> None:
  """Lets all processes compile their programs where they could not all load them.

  On CPUs each process has its own key in the cache of compiled programs, and process 0 alone writes
  there: it would load a step that the others compile, whose collectives come in another order, and
  all would wait for each other for ever.
  """
  if jax.default_backend() == "cpu":
    jax.config.update("jax_enable_compilation_cache", False)


def _first_line(error: BaseException) -> str:
  return first_line(str(error), type(error).__name__)


def is_lead() -> bool:
  """Whether this is process 0, which writes everything that is written once per run."""
  return _state().process_id == 0


def _names(ids: list[int]) -> str:
  """Ids and hosts of processes, for a message."""
  known = dict(_client().key_value_dir_get(f"{_KEYS}/host/"))
  shown = [f"process {i} ({known.get(f'{_KEYS}/host/{i}', 'unknown host')})" for i in ids[:20]]
  return ", ".join(shown) + (" ..." if len(ids) > 20 else "")


_calls: dict[str, int] = {}


def _meet(name: str, value: str, timeout: float) -> dict[int, str]:
  """Waits until every process has called this with `name`; returns their values by id."""
  # JAX's barriers serve once. A name may be used again, so each meeting gets a number, which is the
  # same on all processes.
  _calls[name] = _calls.get(name, 0) + 1
  place = f"{_KEYS}/{name}/{_calls[name]}"
  client = _client()
  client.key_value_set(f"{place}/{_state().process_id}", value)
  try:
    client.wait_at_barrier(place, int(timeout * 1000))
    late = None
  except jax.errors.JaxRuntimeError as error:
    late = error
  came = {int(k.rsplit("/", 1)[-1]): v for k, v in client.key_value_dir_get(f"{place}/")}
  if late is not None:
    missing = [i for i in range(_state().num_processes) if i not in came]
    # All may have come and the service failed: then its own words say more.
    who = _names(missing) if missing else _first_line(late)
    raise UserError(f"waited {timeout:g} s at {name!r} for {who}: see its log") from late
  return came


def barrier(name: str, timeout: float = 600.0) -> None:
  """Waits until all processes have come to the barrier `name`.

  Raises:
    UserError: if some did not come within `timeout` seconds; the message names them.
  """
  if _state().num_processes > 1:
    _meet(name, "", timeout)


def every_host_has_data(n_local: int, what: str, timeout: float = 600.0) -> None:
  """Checks that every process has data. A process without any would leave the others waiting.

  Args:
    n_local: Number of things that this process has.
    what: Their name in the plural, for example "shards" or "training windows".
    timeout: Seconds to wait for the other processes.

  Raises:
    UserError: on all processes alike, if some have none; the message names them.
  """
  if _state().num_processes == 1:
    counts = {0: n_local}
  else:
    counts = {i: int(v) for i, v in _meet(f"data: {what}", str(n_local), timeout).items()}
  without = sorted(i for i, n in counts.items() if n < 1)
  if not without:
    return
  if len(counts) == 1:
    raise UserError(f"no {what}: check the path of the data")
  raise UserError(
    f"no {what} for {_names(without)}, {sum(counts.values())} in all for {len(counts)} processes:"
    " check that the data are mounted on every host, or start fewer processes"
  )


class _Watch:
  """A thread that ends this process when another process leaves a note that it failed."""

  def __init__(self) -> None:
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def start(self, client: Any) -> None:
    self._thread = threading.Thread(target=self._run, args=(client,), name="watch", daemon=True)
    self._thread.start()
    # Exit functions run in reverse order: this one runs before JAX disconnects.
    atexit.register(self.stop)

  def stop(self) -> None:
    """Stops the thread; returns when it no longer uses the connection."""
    self._stop.set()
    if self._thread is not None and self._thread is not threading.current_thread():
      self._thread.join(timeout=2 * _POLL)

  def _run(self, client: Any) -> None:
    while not self._stop.wait(_POLL):
      try:
        notes = client.key_value_dir_get(f"{_KEYS}/failed/")
      except jax.errors.JaxRuntimeError:
        return  # the service is gone, and the runtime ends this process by itself
      for key, note in notes:
        # The same status on all hosts, so that launchers agree whether to try again.
        status, _, message = note.partition(" ")
        who = _names([int(key.rsplit("/", 1)[-1])])
        _end(int(status), f"stopped, because {who} failed: {message}")


_watch = _Watch()


def _end(status: int, message: str) -> NoReturn:
  """Ends this process at once. An orderly exit would wait for processes that wait for this one."""
  with contextlib.suppress(OSError, ValueError):
    flush_stdout()
    print(f"{_program()}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
  os._exit(status)


def _verdict(error: BaseException) -> tuple[int, str]:
  """Exit status and message for the error that ended the work."""
  if isinstance(error, UserError):
    return EXIT_BAD_INPUT, str(error)
  if isinstance(error, KeyboardInterrupt):
    return EXIT_INTERRUPTED, signals.WORDS[signal.SIGINT]
  if isinstance(error, signals.Terminated):
    return signals.EXIT_SIGNAL + signal.SIGTERM, signals.WORDS[signal.SIGTERM]
  if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
    return EXIT_TRY_AGAIN, (
      f"lost another host ({_first_line(error)}); see the logs of all. Run the same command on all"
      " hosts again: training goes on from its last checkpoint"
    )
  return EXIT_BUG, f"{type(error).__name__}: {_first_line(error)}"


def _leave(error: BaseException) -> NoReturn:
  """Tells the other processes what happened here, and ends this one."""
  # First of all: the watch would find this process's own note.
  _watch.stop()
  status, message = _verdict(error)
  with contextlib.suppress(Exception):
    # Bad input and lost hosts are explained in one line; only a bug needs its stack.
    if status == EXIT_BUG:
      traceback.print_exception(error)
  with contextlib.suppress(Exception):
    note = f"{status} {' '.join(message.split())}"
    _client().key_value_set(f"{_KEYS}/failed/{_state().process_id}", note)
    if is_lead():
      time.sleep(2 * _POLL)  # process 0 keeps the notes: the others must have time to read them
  _end(status, message)


@contextlib.contextmanager
def session(settings: Mapping[str, Any] | None = None) -> Iterator[Membership]:
  """Connects the processes of a run, and ends all of them if one fails.

  In a run of several processes an error inside the block ends all processes; it does not leave this
  context manager as an exception.

  Args:
    settings: config.distributed, or None.

  Yields:
    The plan by which the processes were connected.

  Raises:
    UserError: as `initialize`.
  """
  plan = initialize(settings)
  if _client() is None:
    yield plan
    return
  try:
    _compile_alike()
    yield plan
    # JAX's own barrier at exit gives a slower process only five minutes.
    barrier("end", _END_TIMEOUT)
  except BaseException as error:
    _leave(error)
