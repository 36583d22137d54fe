"""NVIDIA cards that are not here, as XLA's compiler for CUDA wants them described.

With a description the plugin compiles for a card without one: kernels, libraries and memory are
those of the card, but nothing is tuned by trying it out. It takes the `gpu_plan` extra.
"""

import dataclasses
import importlib.util
import os
from typing import Any

from melody_jax.errors import UserError
from melody_jax.host.chips import Chip

CUDNN = (9, 10, 0)  # version that the programs are made for


@dataclasses.dataclass(frozen=True)
class Card:
  """What the compiler asks of a card and no data sheet of speeds says.

  Attributes:
    capability: Compute capability, the number before the dot.
    cores: Streaming multiprocessors.
    units: Float32 units of each.
    shared_bytes: Shared memory of each.
    block_bytes: Shared memory that one block may ask for.
    cache_bytes: Size of the L2 cache.
    clock: GHz.
  """

  capability: int
  cores: int
  units: int
  shared_bytes: int
  block_bytes: int
  cache_bytes: int
  clock: float


# As CUDA reports them of the SXM cards (cudaDeviceProp).
_CARDS = {
  "a100": Card(8, 108, 64, 167_936, 166_912, 40 * 2**20, 1.41),
  "h100": Card(9, 132, 128, 233_472, 232_448, 50 * 2**20, 1.98),
  "h200": Card(9, 132, 128, 233_472, 232_448, 50 * 2**20, 1.98),
  "b200": Card(10, 148, 128, 233_472, 232_448, 132_644_864, 1.965),
}


def description(chip: Chip) -> str:
  """Text of a GpuTargetConfig, XLA's message that describes a card."""
  card = _CARDS[chip.name]
  # Features that a capability has alone, such as Hopper's tensor memory copies, are asked for.
  extension = "ACCELERATED_FEATURES" if card.capability >= 9 else "NONE"
  major, minor, patch = CUDNN
  sizes = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_core": card.shared_bytes,
    "shared_memory_per_block_optin": card.block_bytes,
    "registers_per_core_limit": 2**16,
    "registers_per_block_limit": 2**16,
    "core_count": card.cores,
    "fpus_per_core": card.units,
    "clock_rate_ghz": card.clock,
    "memory_bandwidth": int(chip.hbm_bandwidth),
    "device_memory_size": chip.hbm_bytes,
    "l2_cache_size": card.cache_bytes,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "device_address_bits": 64,
  }
  lines = [f"  {name}: {value}" for name, value in sizes.items()]
  return "\n".join([
    "gpu_device_info {",
    *lines,
    f"  cuda_compute_capability {{ major: {card.capability} feature_extension: {extension} }}",
    f'  name: "{chip.kind}"',
    '  device_vendor: "NVIDIA Corporation"',
    f'  dnn_version: "{major}.{minor}.{patch}"',
    "}",
    'platform_name: "CUDA"',
    f"dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}",
    f'device_description_str: "{chip.kind}"',
  ])  # fmt: skip


def has_compiler() -> bool:
  """Whether the compiler for CUDA is installed."""
  return bool(
    importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda12")
  )


def devices_of(chip: Chip, number: int) -> list[Any]:
  """Devices of one host that XLA compiles for, none of which is here.

  Raises:
    UserError: if the compiler for CUDA is not installed, or will not make such devices.
  """
  # No card is asked for, so none must be found wanting.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  # Kernels, schedule and memory are decided before machine code is made of them. That code never
  # runs, so that no time goes into making it fast.
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
  import jax
  from jax.experimental import topologies

  if not has_compiler():
    raise UserError(
      f"planning for {chip.name} needs the compiler for CUDA, which works without a card: pip"
      " install -c constraints.txt -e '.[gpu_plan]'"
    )
  # Loads plugins, the compiler's too. Whatever else is asked of JAX here, such as a random key, is
  # for this machine.
  jax.config.update("jax_platforms", "cpu")
  jax.devices()
  try:
    # Hosts, processes of each, devices of each.
    found = topologies.get_topology_desc(
      platform="cuda", topology_name="", target_config=description(chip), topology=f"1x1x{number}"
    )
  except Exception as error:  # XLA raises its own kinds
    raise UserError(f"no {number} x {chip.name}: {' '.join(str(error).split())[:200]}") from error
  return list(found.devices)
