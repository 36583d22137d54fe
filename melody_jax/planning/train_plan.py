"""What one training step needs on a slice of chips: compiled by the real compiler, never run."""

from collections.abc import Callable, Iterator
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np

from melody_jax import sharding
from melody_jax.errors import UserError
from melody_jax.host.chips import GIB
from melody_jax.planning.hlo import Program
from melody_jax.planning.topology import Topology
from melody_jax.task import Task, make_task
from melody_jax.training.flops import matmul_flops, useful_flops
from melody_jax.training.state import TrainState, abstract_state, make_init, shardings_of_state
from melody_jax.training.step import compile_train_step, make_train_step

HBM_SHARE = 0.95  # share of a chip's memory that a program may use; the runtime keeps some


@dataclasses.dataclass
class TrainPlan:
  """One compiled step, per device unless said otherwise. Sizes in bytes, times in seconds.

  Attributes:
    topology: Name of the slice.
    devices: Number of devices in it.
    mesh: {axis: size} of the mesh.
    batch_size: Rows of a step over all devices.
    accumulate: Number of parts that a batch is cut into.
    fits: Whether `peak_bytes` fits the chip's memory.
    parameters: Number of parameters of the whole model.
    parameter_bytes: Size of the parameters on one device.
    optimizer_bytes: Size of the optimiser's state on one device.
    ema_bytes: Size of the averaged parameters on one device.
    activation_bytes: Everything else that is in memory at the worst moment.
    peak_bytes: Memory at the worst moment. Where the compiler gave up, what it said it needs.
    hbm_bytes: Memory of the chip.
    flops: Matmul operations that run, recomputation included.
    model_flops: Matmul operations without recomputation.
    bytes_accessed: Bytes read from and written to HBM.
    collectives: {kind: {"count", "bytes"}}.
    custom_calls: {target: number of times it runs}; our own kernels are among them.
    compute_seconds: Time of the matmuls alone, at the chip's peak.
    hbm_seconds: Time of the memory traffic alone, at the chip's peak.
    ici_seconds: Time of the collectives alone, at the chip's peak.
    slices: Number of slices.
    between_slices: {"count", "bytes"} that a device sends to other slices.
    dcn_seconds: Time of these alone, over the network of the data centre.
    step_seconds: The largest of these times; no step can be faster.
    mfu_bound: Model FLOPs utilisation, at most: model_flops / step_seconds / the chip's peak.
    binding: The resource that sets step_seconds.
    compile_seconds: Time of the compilation on this machine.
    settings: Overrides of the config that led to this plan, where the config itself did not fit.
  """

  topology: str
  devices: int
  mesh: dict[str, int]
  batch_size: int
  accumulate: int
  fits: bool
  parameters: int
  parameter_bytes: float
  optimizer_bytes: float
  ema_bytes: float
  activation_bytes: float
  peak_bytes: float
  hbm_bytes: float
  flops: float = 0.0
  model_flops: float = 0.0
  bytes_accessed: float = 0.0
  collectives: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  custom_calls: dict[str, int] = dataclasses.field(default_factory=dict)
  compute_seconds: float = 0.0
  hbm_seconds: float = 0.0
  ici_seconds: float = 0.0
  slices: int = 1
  between_slices: dict[str, float] = dataclasses.field(default_factory=dict)
  dcn_seconds: float = 0.0
  step_seconds: float = 0.0
  mfu_bound: float = 0.0
  binding: str = "memory"
  compile_seconds: float = 0.0
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def _shard_bytes(tree: Any) -> float:
  """Bytes of one device's share of a tree of ShapeDtypeStructs with shardings."""

  def size(leaf: Any) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize

  return float(sum(map(size, jax.tree.leaves(tree))))


def abstract_batch(config: ml_collections.ConfigDict, task: Task, mesh: Mesh) -> dict[str, Any]:
  """Shapes of a batch, laid over the mesh: {feature: ShapeDtypeStruct [rows, ...]}.

  Raises:
    UserError: if the rows do not divide over the data axes.
  """
  # The real run refuses this too, when it gives every host its rows.
  rows, lanes = config.train.batch_size, mesh.shape["data"] * mesh.shape["fsdp"]
  if rows % (lanes * config.train.accumulate):
    raise UserError(
      f"train.batch_size {rows} does not divide over {lanes} data-parallel devices"
      f" x train.accumulate {config.train.accumulate}: take a multiple of both"
    )
  layout = sharding.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct((rows, *f.shape), jnp.dtype(f.dtype), sharding=layout)
    for name, f in task.input_features().items()
  }


def _measure(plan: TrainPlan, compiled: Any, topology: Topology) -> None:
  """Fills in what the compiled program tells."""
  chip, memory = topology.chip, compiled.memory_analysis()
  # The old state's memory is reused for the new one (alias), so it counts once.
  arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes
  plan.peak_bytes = float(
    arguments - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
  )  # fmt: skip
  state = plan.parameter_bytes + plan.optimizer_bytes + plan.ema_bytes
  plan.activation_bytes = plan.peak_bytes - state
  plan.fits = plan.peak_bytes <= HBM_SHARE * chip.hbm_bytes
  program = Program(compiled.as_text())
  plan.collectives = program.collectives()
  plan.custom_calls = program.custom_calls()
  plan.bytes_accessed = program.hbm_bytes()
  # On a ring an all-reduce is a reduce-scatter and an all-gather: its bytes move twice.
  moved = sum(c["bytes"] * (2 if k == "all-reduce" else 1) for k, c in plan.collectives.items())
  plan.compute_seconds = plan.flops / chip.flops
  plan.hbm_seconds = plan.bytes_accessed / chip.hbm_bandwidth
  plan.ici_seconds = moved / chip.ici_bandwidth
  times = {
    "compute": plan.compute_seconds, "hbm": plan.hbm_seconds, "interconnect": plan.ici_seconds
  }  # fmt: skip
  if topology.slices > 1:
    plan.between_slices = program.between_slices(topology.slices)
    plan.dcn_seconds = plan.between_slices["bytes"] / chip.dcn_bandwidth
    times["network between slices"] = plan.dcn_seconds
  plan.step_seconds = max(times.values())
  plan.binding = max(times, key=lambda name: times[name])
  if plan.step_seconds:
    plan.mfu_bound = plan.model_flops / plan.step_seconds / chip.flops


def needed_bytes(error: Exception) -> float | None:
  """Bytes that a program needs, from the compiler's message that memory is short.

  Returns:
    Bytes; inf where the message does not say; None where the error has another cause.
  """
  text = str(error)
  if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
    return None
  units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  # libtpu words it in two ways.
  match = re.search(r"(?:Used |HLO temporaries \()([\d.]+) ?([KMGT]?)i?B?(?: of|\))", text)
  return float(match[1]) * units[match[2]] if match else float("inf")


def plan_step(config: ml_collections.ConfigDict, topology: Topology) -> TrainPlan:
  """Compiles the very train step of `config` for the devices of `topology`.

  Raises:
    UserError: if the mesh or the batch does not fit the number of devices.
  """
  import time

  task = make_task(config)
  mesh = topology.mesh(config.mesh)
  init, optimizers, boxed = make_init(config, task)
  shardings = shardings_of_state(mesh, init, boxed)
  state = abstract_state(init, shardings)
  batch = abstract_batch(config, task, mesh)
  step = make_train_step(config, task, optimizers)
  plan = _without_program(config, topology, mesh, state)
  n = len(topology.devices)
  plan.flops = matmul_flops(step, state, batch) / n
  plan.model_flops = useful_flops(task, state.params, batch) / n
  started = time.monotonic()
  try:
    with topology.tracing():
      lowered = compile_train_step(step, mesh, shardings).lower(state, batch)
    compiled = lowered.compile()
  # Memory is the one thing that the compiler itself finds out; all other errors are bugs and are
  # shown.
  except Exception as error:  # XLA's own kinds
    needed = needed_bytes(error)
    if needed is None:
      raise
    plan.peak_bytes, plan.fits = needed, False
  else:
    _measure(plan, compiled, topology)
  plan.compile_seconds = time.monotonic() - started
  return plan


def _without_program(
  config: ml_collections.ConfigDict, topology: Topology, mesh: Mesh, state: TrainState
) -> TrainPlan:
  leaves = jax.tree.leaves(state.params)
  return TrainPlan(
    topology=topology.name, devices=len(topology.devices), mesh=dict(mesh.shape),
    batch_size=config.train.batch_size, accumulate=config.train.accumulate, fits=False,
    parameters=sum(int(np.prod(leaf.shape)) for leaf in leaves),
    parameter_bytes=_shard_bytes(state.params), optimizer_bytes=_shard_bytes(state.opt_state),
    ema_bytes=_shard_bytes(state.ema) if state.ema is not None else 0.0,
    slices=topology.slices, activation_bytes=0.0, peak_bytes=0.0,
    hbm_bytes=float(topology.chip.hbm_bytes),
  )  # fmt: skip


def alternatives(config: ml_collections.ConfigDict, mesh: Mesh) -> Iterator[dict[str, Any]]:
  """Settings that need less memory, those that change the training least first.

  More parts per batch give the same result, except for losses over a whole batch. More fsdp
  (sharded parameters and state) gives the same result too. A smaller batch comes last, because it
  is another training.

  Yields:
    {config key: value}.
  """
  lanes = mesh.shape["data"] * mesh.shape["fsdp"]
  # Rows of a part on one device: only these can be cut further.
  rows = config.train.batch_size // (lanes * config.train.accumulate)
  part = 2
  while rows % part == 0 and part <= 8:
    yield {"train.accumulate": config.train.accumulate * part}
    part *= 2
  fsdp = mesh.shape["fsdp"]
  for factor in (4, 16):
    if mesh.shape["data"] % factor == 0:
      # Together with many parts: parts alone have been tried by now, and did not fit.
      best = max((p for p in (1, 2, 4, 8) if rows % p == 0), default=1)
      yield {"mesh.fsdp": fsdp * factor, "train.accumulate": config.train.accumulate * best}
  for divisor in (2, 4, 8, 16):
    if config.train.batch_size % (divisor * lanes) == 0:
      yield {"train.batch_size": config.train.batch_size // divisor, "train.accumulate": 1}


def nearest_fit(
  config: ml_collections.ConfigDict, topology: Topology, progress: Callable[[str], None]
) -> TrainPlan | None:
  """The first of `alternatives` that fits, compiled; None: none does."""
  mesh = topology.mesh(config.mesh)
  for settings in alternatives(config, mesh):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(settings)
    progress("trying " + " ".join(f"--config.{k}={v}" for k, v in settings.items()))
    plan = plan_step(changed, topology)
    # Kept with the plan, so that the report can print them as flags.
    plan.settings = settings
    if plan.fits:
      return plan
  return None


def _between_slices(plan: TrainPlan) -> list[str]:
  if plan.slices == 1:
    return []
  count, moved = plan.between_slices.get("count", 0), plan.between_slices.get("bytes", 0.0)
  return [
    f"between {plan.slices} slices: {int(count)} sends, {moved / 2**20:.1f} MiB:"
    f" {plan.dcn_seconds * 1e3:.2f} ms"
  ]


def lines(plan: TrainPlan) -> list[str]:
  """A report for people."""
  collectives = [
    f"  {kind:20s} {int(c['count']):6d} x, {c['bytes'] / 2**20:10.1f} MiB"
    for kind, c in sorted(plan.collectives.items())
  ]
  kernels = [f"  {name} x {times}" for name, times in sorted(plan.custom_calls.items())]
  return [
    f"{plan.topology}: {plan.devices} devices, mesh {plan.mesh}, batch {plan.batch_size}"
    f" in {plan.accumulate} part(s); {plan.parameters / 1e6:.1f} M parameters",
    "per device:",
    f"  parameters           {plan.parameter_bytes / GIB:8.3f} GiB",
    f"  optimiser state      {plan.optimizer_bytes / GIB:8.3f} GiB",
    f"  averaged parameters  {plan.ema_bytes / GIB:8.3f} GiB",
    f"  activations, others  {plan.activation_bytes / GIB:8.3f} GiB",
    f"  peak                 {plan.peak_bytes / GIB:8.3f} of {plan.hbm_bytes / GIB:.0f} GiB:"
    f" {'fits' if plan.fits else 'DOES NOT FIT'}",
    f"  FLOPs                {plan.flops / 1e12:8.3f} T ({plan.model_flops / 1e12:.3f} T without"
    " recomputation)",
    f"  bytes from HBM       {plan.bytes_accessed / GIB:8.3f} GiB",
    "collectives:" if collectives else "collectives: none",
    *collectives,
    *_between_slices(plan),
    *(["custom calls:", *kernels] if kernels else []),
    f"at the chip's peaks: compute {plan.compute_seconds * 1e3:.2f} ms, HBM"
    f" {plan.hbm_seconds * 1e3:.2f} ms, interconnect {plan.ici_seconds * 1e3:.2f} ms",
    f"a step takes at least {plan.step_seconds * 1e3:.2f} ms, bound by {plan.binding}: MFU at most"
    f" {100 * plan.mfu_bound:.0f} %",
    f"(compiled in {plan.compile_seconds:.0f} s)",
  ]
