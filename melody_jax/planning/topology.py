"""Devices to compile for that are not at hand: TPU slices by name, or virtual CPU devices."""

import dataclasses
import math
import os
import re

import jax
from jax.sharding import Mesh
import ml_collections

from melody_jax import sharding
from melody_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip can do, as its maker states it.

  Attributes:
    name: Name in a topology, for example "v5e".
    hbm_bytes: Size of its memory (HBM) in bytes.
    flops: Matmul operations per second in bfloat16.
    hbm_bandwidth: Bytes per second from and to its memory.
    ici_bandwidth: Bytes per second to all of its neighbours together.
    dimensions: Number of dimensions of a slice's torus.
    megacore: Whether its two cores act as one device, as on all slices that are rented today.
  """

  name: str
  hbm_bytes: int
  flops: float
  hbm_bandwidth: float
  ici_bandwidth: float
  dimensions: int
  megacore: bool = False


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}: peak compute, HBM capacity and bandwidth,
# interchip interconnect bandwidth (bits there, bytes here).
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 32 * GIB, 275e12, 1.228e12, 300e9, 3, megacore=True),
    Chip("v5e", 16 * GIB, 197e12, 0.819e12, 200e9, 2),
    Chip("v5p", 95 * GIB, 459e12, 2.765e12, 600e9, 3, megacore=True),
    Chip("v6e", 32 * GIB, 918e12, 1.640e12, 448e9, 2),
  )
}
# These numbers describe no real CPU. They serve tests, and a look at memory and collectives without
# libtpu.
CPU = Chip("cpu", 16 * GIB, 1e11, 2e10, 1e10, 1)


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
  """A slice of chips.

  Attributes:
    name: Name of the slice, for example "v5e:16x16".
    chip: Kind of its chips.
    devices: Devices that XLA compiles for.
  """

  name: str
  chip: Chip
  devices: list[jax.Device]

  def mesh(self, sizes: ml_collections.ConfigDict) -> Mesh:
    """Lays the mesh of a run (`config.mesh`) over these devices."""
    return sharding.make_mesh(sizes, self.devices)


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
  """Parses the name of a slice: "v5e:16x16" -> (CHIPS["v5e"], (16, 16)), "cpu:8" -> (CPU, (8,)).

  Raises:
    UserError: if the name is not a chip, a colon and a shape.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
  chips = CHIPS | {"cpu": CPU}
  if not match or match[1] not in chips:
    raise UserError(
      f"topology {name!r}: a chip ({', '.join(chips)}), a colon and a shape, as in v5e:16x16,"
      " v4:4x4x4 or cpu:8"
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


def open_topology(name: str) -> Topology:
  """Finds the devices of a slice. Call it before anything else touches JAX's devices.

  Raises:
    UserError: if the name is unknown, no such slice exists, or libtpu is missing for a TPU.
  """
  chip, shape = parse(name)
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
    description = topologies.get_topology_desc(platform="tpu", topology_name=name, **cores)
  except Exception as error:  # XLA raises its own kinds
    text = " ".join(str(error).split())[:200]
    if "libtpu" in text.lower() or "plugin" in text.lower():
      raise UserError(
        f"planning for {name} needs libtpu, which compiles without a TPU: pip install -c"
        f" constraints.txt -e '.[plan]' ({text})"
      ) from error
    raise UserError(f"no slice {name}: {text}") from error
  return Topology(name, chip, list(description.devices))
