"""Finds out which processes belong to a run: from settings, from Slurm, or from Cloud TPU.

Everything here is computed from arguments; `melody_jax.multihost.session` acts on the result.
"""

from collections.abc import Mapping
import dataclasses
import re

from melody_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class MembershipSettings:
  """What config.distributed may say.

  Attributes:
    coordinator: host:port of process 0; "" means MELODY_COORDINATOR, or automatic.
    num_processes: Number of processes of the run; 0 means MELODY_NUM_PROCESSES, or automatic.
    process_id: Id of this process; -1 means MELODY_PROCESS_ID, or automatic.
    start_timeout: Seconds that all processes have to appear.
    heartbeat_timeout: Seconds of silence after which a process counts as dead.
  """

  coordinator: str = ""
  num_processes: int = 0
  process_id: int = -1
  start_timeout: int = 300
  heartbeat_timeout: int = 25


@dataclasses.dataclass(frozen=True)
class Membership:
  """How the processes of a run find each other.

  Attributes:
    environment: Where this was found: "single", "explicit", "slurm" or "tpu".
    coordinator: host:port of process 0; "" means that JAX asks the TPU's metadata server.
    num_processes: Number of processes of the run; 0 means that JAX asks the metadata server.
    process_id: Id of this process.
    local_device_ids: GPUs of this process; None means all that it sees.
  """

  environment: str
  coordinator: str = ""
  num_processes: int = 1
  process_id: int = 0
  local_device_ids: tuple[int, ...] | None = None


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
  text = environ.get(name, "").strip()
  if not text:
    return default
  if not re.fullmatch(r"-?\d+", text):
    raise UserError(f"{name} is {text!r}: it must be a whole number")
  return int(text)


def _check_address(address: str) -> None:
  match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s/]+):(\d+)", address)
  if not match or not 0 < int(match[2]) < 65536:
    raise UserError(
      f"the coordinator is {address!r}: it must be host:port of process 0, for example"
      " node1:8476 (MELODY_COORDINATOR or config.distributed.coordinator)"
    )


def _first_host(nodes: str) -> str:
  """First host of a Slurm host list: "gpu[03-07,9],x" -> "gpu03"."""
  first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
  return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""


def _slurm(environ: Mapping[str, str]) -> Membership | None:
  """The plan of a job step of several tasks.

  The batch script itself belongs to no step. It runs alone, whatever SLURM_NTASKS says.
  """
  nodes = environ.get("SLURM_STEP_NODELIST", "")
  count = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
  if not nodes or "SLURM_PROCID" not in environ or count < 2:
    return None
  # Job and step choose the port, so that runs on one host do not meet each other by accident. The
  # range lies above Linux's ephemeral ports, which any program may hold.
  job, step = _number(environ, "SLURM_JOB_ID", 0), _number(environ, "SLURM_STEP_ID", 0)
  port = 61440 + (job + step) % 4096
  local = None
  if _number(environ, "SLURM_STEP_NUM_NODES", count) < count:
    # Several tasks per host get one GPU each, unless Slurm has already bound one to each.
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    # One visible GPU means that Slurm has chosen it; choosing again would point beyond it.
    if len(visible.split(",")) > 1 or not visible:
      local = (_number(environ, "SLURM_LOCALID", 0),)
  return Membership(
    "slurm", f"{_first_host(nodes)}:{port}", count, _number(environ, "SLURM_PROCID", 0), local
  )


def _tpu(environ: Mapping[str, str], on_tpu_vm: bool) -> Membership | None:
  """The plan of a TPU slice, or of several.

  GKE names the hosts of a slice in the environment; on a TPU VM the metadata server does.
  """
  platforms = environ.get("JAX_PLATFORMS", "")
  # A run on the CPU of a TPU VM must not wait for the other hosts of the slice.
  if platforms and "tpu" not in platforms:
    return None
  workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
  hosts = len([w for w in workers.split(",") if w])
  slices = _number(environ, "MEGASCALE_NUM_SLICES", 1)
  if not hosts:
    return Membership("tpu", num_processes=0) if on_tpu_vm or slices > 1 else None
  if hosts * slices < 2:
    return None
  # GKE numbers workers within a slice; a run needs ids over all slices.
  worker, which = _number(environ, "TPU_WORKER_ID", 0), _number(environ, "MEGASCALE_SLICE_ID", 0)
  return Membership("tpu", num_processes=hosts * slices, process_id=which * hosts + worker)


def _explicit(given: MembershipSettings, found: Membership | None) -> Membership:
  """The plan of explicit settings; Slurm supplies what they leave out."""
  count = given.num_processes or (found.num_processes if found else 0)
  if count == 1:
    return Membership("single")
  which = given.process_id if given.process_id >= 0 else (found.process_id if found else -1)
  address = given.coordinator or (found.coordinator if found else "")
  wanted = {
    "MELODY_COORDINATOR (host:port of process 0)": bool(address),
    "MELODY_NUM_PROCESSES": count > 0,
    "MELODY_PROCESS_ID": which >= 0,
  }
  # All at once: one message per missing variable would cost a start each.
  missing = [name for name, there in wanted.items() if not there]
  if missing:
    raise UserError(f"a run of several hosts also needs {', '.join(missing)}")
  _check_address(address)
  if which >= count:
    raise UserError(f"process id {which} of {count} processes: ids go from 0 to {count - 1}")
  return Membership("explicit", address, count, which, found.local_device_ids if found else None)


def detect(
  environ: Mapping[str, str], settings: MembershipSettings | None = None, on_tpu_vm: bool = False
) -> Membership:
  """Finds out who takes part; reads nothing but its arguments.

  Args:
    environ: Environment variables.
    settings: Explicit settings; they win over MELODY_* variables.
    on_tpu_vm: Whether this machine has TPU chips.

  Returns:
    The plan; `environment` is "single" for a process that runs alone.

  Raises:
    UserError: if the settings are incomplete, malformed, or contradict each other.
  """
  settings = settings or MembershipSettings()
  given = dataclasses.replace(
    settings,
    coordinator=settings.coordinator or environ.get("MELODY_COORDINATOR", ""),
    num_processes=settings.num_processes or _number(environ, "MELODY_NUM_PROCESSES", 0),
    process_id=settings.process_id
    if settings.process_id >= 0
    else _number(environ, "MELODY_PROCESS_ID", -1),
  )
  if given.num_processes < 0:
    raise UserError(f"{given.num_processes} processes: there must be at least 1")
  found = _slurm(environ)
  # What the user says wins over Slurm, and Slurm over TPUs: the more deliberate one first.
  if given.coordinator or given.num_processes or given.process_id >= 0:
    return _explicit(given, found)
  return found or _tpu(environ, on_tpu_vm) or Membership("single")
