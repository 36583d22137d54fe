"""Devices to compile for that are not at hand: TPU slices, GPUs, or virtual CPU devices."""

import contextlib
import dataclasses
import math
import os
import re

import jax
from jax.sharding import Mesh
import ml_collections

from melody_jax import sharding
from melody_jax.errors import UserError, check_range
from melody_jax.host.chips import CHIPS, CPU, GPUS, MOST_GPUS, Chip
from melody_jax.kernels.attention import for_gpus_elsewhere
from melody_jax.planning import gpu_target

MOST_SLICES = 64  # more than any run of this program needs, and less than takes hours

# Without the first three, libtpu asks the cloud's metadata server, waits, and complains. The last
# one lets several processes load it at once, which is safe here as no TPU is used.
LIBTPU_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of chips, or several alike.

  Attributes:
    name: Name of the slices, for example "v5e:16x16" or "2 x v5e:16x16".
    chip: Kind of their chips.
    devices: Devices that XLA compiles for.
    slices: Number of slices.
  """

  name: str
  chip: Chip
  devices: list[jax.Device]
  slices: int = 1

  def mesh(self, sizes: ml_collections.ConfigDict) -> Mesh:
    """Lays the mesh of a run (`config.mesh`) over these devices."""
    return sharding.make_mesh(sizes, self.devices)

  def tracing(self) -> contextlib.AbstractContextManager[None]:
    """Context to trace programs for these devices in."""
    # A process sees by itself whether it has GPUs; these it has not.
    return for_gpus_elsewhere() if self.chip.name in GPUS else contextlib.nullcontext()


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
  """Parses the name of a slice: "v5e:16x16" -> (CHIPS["v5e"], (16, 16)), "h100x8" -> (.., (8,)).

  Raises:
    UserError: if the name is not a chip, a colon and a shape, or a GPU and a number.
  """
  cards = re.fullmatch(rf"({'|'.join(GPUS)})x(\d+)", name)
  if cards:
    check_range(f"number of GPUs in {name}", int(cards[2]), 1, MOST_GPUS)
    return GPUS[cards[1]], (int(cards[2]),)
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
  chips = CHIPS | {"cpu": CPU}
  if not match or match[1] not in chips:
    raise UserError(
      f"topology {name!r}: a chip ({', '.join(chips)}), a colon and a shape, as in v5e:16x16,"
      f" v4:4x4x4 or cpu:8; or GPUs of one host ({', '.join(GPUS)}), as in h100x8"
    )
  chip, shape = chips[match[1]], tuple(int(n) for n in match[2].split("x"))
  # v4 and v5p slices are tori of three dimensions, v5e and v6e of two.
  if len(shape) != chip.dimensions or not math.prod(shape):
    example = f"{chip.name}:{'x'.join(['4'] * chip.dimensions)}"
    raise UserError(
      f"topology {name!r}: a slice of {chip.name} has {chip.dimensions} dimension(s) of 1 or more,"
      f" as in {example}"
    )
  return chip, shape


def open_topology(name: str, slices: int = 1) -> Topology:
  """Finds the devices of slices. Call it before anything else touches JAX's devices.

  Args:
    name: Name of a slice, as `parse` takes it.
    slices: Number of such slices, joined by the network of the data centre.

  Raises:
    UserError: if the name is unknown, no such slice exists, or the compiler for it is missing.
  """
  chip, shape = parse(name)
  check_range("--slices", slices, 1, MOST_SLICES)
  if slices > 1 and chip.name not in CHIPS:
    raise UserError(f"--slices={slices} takes a TPU: {name} has no slices")
  if chip.name in GPUS:
    return Topology(name, chip, gpu_target.devices_of(chip, shape[0]))
  if chip is CPU:
    # Virtual devices: their number can be set only until JAX has made its devices.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", shape[0])
    return Topology(name, chip, jax.devices())
  # Imported late: a plan for the CPU needs none of it.
  from jax.experimental import topologies

  for variable, value in LIBTPU_ENVIRONMENT.items():
    # setdefault: what the user has set is meant.
    os.environ.setdefault(variable, value)
  try:
    cores = {"chip_config_name": "megacore"} if chip.megacore else {}
    # Without the number libtpu describes devices that know of no slices.
    number = {"num_slices": slices} if slices > 1 else {}
    description = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **cores, **number
    )
  except Exception as error:  # XLA raises its own kinds
    text = " ".join(str(error).split())[:200]
    if "libtpu" in text.lower() or "plugin" in text.lower():
      raise UserError(
        f"planning for {name} needs libtpu, which compiles without a TPU: pip install -c"
        f" constraints.txt -e '.[plan]' ({text})"
      ) from error
    raise UserError(f"no slice {name}: {text}") from error
  shown = f"{slices} x {name}" if slices > 1 else name
  return Topology(shown, chip, list(description.devices), slices)
