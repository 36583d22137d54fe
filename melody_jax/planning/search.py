"""Which mesh, recomputation and accumulation suit a slice best: each is compiled, none is run."""

from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from melody_jax.errors import UserError
from melody_jax.host.chips import GIB
from melody_jax.models.lm import REMAT_POLICIES
from melody_jax.planning import train_plan
from melody_jax.planning.topology import Topology
from melody_jax.planning.train_plan import TrainPlan

# A ring of any length gathers parameters with the same traffic, so a whole pod is tried, too.
FSDP = (1, 4, 16, 64, 256)
TENSOR = (1, 2, 4, 8)  # heads of the smallest model that is sharded so
PARTS = (1, 2, 4, 8, 16)  # of a batch

Settings = dict[str, Any]


def meshes(devices: int, slices: int) -> Iterator[Settings]:
  """Meshes over so many devices whose `fsdp` and `tensor` stay inside a slice."""
  for tensor in TENSOR:
    for fsdp in FSDP:
      if (devices // slices) % (fsdp * tensor) == 0:
        yield {"mesh.data": -1, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


def recomputations(config: ml_collections.ConfigDict) -> Iterator[Settings]:
  """What the model may compute again in the backward pass instead of keeping it."""
  chosen = config.model.get("remat")
  if chosen is None:
    return
  # A model has a switch, or names what is kept, as the LM does.
  for value in REMAT_POLICIES if isinstance(chosen, str) else (False, True):
    yield {"model.remat": value}


def accumulations(config: ml_collections.ConfigDict, lanes: int) -> Iterator[Settings]:
  """Parts that a batch can be cut into on so many data-parallel devices."""
  for parts in PARTS:
    if config.train.batch_size % (lanes * parts) == 0:
      yield {"train.accumulate": parts}


def rank(plan: TrainPlan) -> tuple[bool, float]:
  """Order of plans, the smallest best: those that fit by their bound, the others by memory."""
  return (False, -plan.mfu_bound) if plan.fits else (True, plan.peak_bytes)


def search(
  config: ml_collections.ConfigDict,
  topology: Topology,
  progress: Callable[[str], None],
  plan_step: Callable[[ml_collections.ConfigDict, Topology], TrainPlan] = train_plan.plan_step,
) -> list[TrainPlan]:
  """Plans of the settings that were tried, the best first.

  First the mesh is chosen, with the config's other settings; then, on the best mesh, what is
  computed again; then the number of parts of a batch. All combinations would take days to compile
  at the paper's sizes. The batch stays as it is: another one is another training.

  Args:
    config: Config of the run.
    topology: Devices to plan for.
    progress: Function that is told of each plan.
    plan_step: Function that plans one config.

  Returns:
    Plans, each with the `settings` that lead to it.

  Raises:
    UserError: if no mesh of these devices divides the batch.
  """
  tried: dict[tuple[tuple[str, Any], ...], TrainPlan] = {}
  # With the config's own values in it, a setting that is met again is known again.
  best: Settings = {"train.accumulate": config.train.accumulate}
  if "remat" in config.model:
    best["model.remat"] = config.model.remat
  for candidates in (
    lambda lanes: meshes(len(topology.devices), topology.slices),
    lambda lanes: recomputations(config),
    lambda lanes: accumulations(config, lanes),
  ):
    lanes = len(topology.devices) // best.get("mesh.tensor", 1)
    for change in candidates(lanes):
      settings = best | change
      key = tuple(sorted(settings.items()))
      plan = None if key in tried else _try(config, topology, settings, plan_step, progress)
      if plan is not None:
        tried[key] = plan
    if not tried:
      rows, parts = config.train.batch_size, config.train.accumulate
      raise UserError(
        f"no mesh over {len(topology.devices)} devices divides config.train.batch_size {rows} in"
        f" {parts} part(s): give another batch_size"
      )
    best = min(tried.values(), key=rank).settings
  return sorted(tried.values(), key=rank)


def _try(config, topology, settings: Settings, plan_step, progress) -> TrainPlan | None:
  """The plan of a config with these settings; None where they cannot be laid over the devices."""
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(settings)
  try:
    plan = plan_step(changed, topology)
  except UserError as error:
    progress(f"{flags(settings)}: {error}")
    return None
  plan.settings = settings
  progress(row(plan))
  return plan


def flags(settings: Settings) -> str:
  """Settings as one types them."""
  return " ".join(f"--config.{key}={value}" for key, value in settings.items())


def row(plan: TrainPlan) -> str:
  """One plan as a line."""
  memory = f"{plan.peak_bytes / GIB:.1f} GiB"
  if not plan.fits:
    return f"does not fit ({memory}): {flags(plan.settings)}"
  return (
    f"MFU at most {100 * plan.mfu_bound:4.1f} %, step at least {1e3 * plan.step_seconds:.2f} ms by"
    f" {plan.binding}, {memory}: {flags(plan.settings)}"
  )
