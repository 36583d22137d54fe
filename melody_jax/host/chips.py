"""What accelerators can do, as their makers state it."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip can do, as its maker states it.

  Attributes:
    name: Name in a topology, for example "v5e" or "h100".
    hbm_bytes: Size of its memory (HBM) in bytes.
    flops: Matmul operations per second in bfloat16.
    hbm_bandwidth: Bytes per second from and to its memory.
    ici_bandwidth: Bytes per second to all of its neighbours together.
    dcn_bandwidth: Bytes per second to other slices, over the network of the data centre.
    dimensions: Number of dimensions of a slice's torus.
    kind: What JAX calls it (`jax.Device.device_kind`).
    megacore: Whether its two cores act as one device, as on all slices that are rented today.
  """

  name: str
  hbm_bytes: int
  flops: float
  hbm_bandwidth: float
  ici_bandwidth: float
  dcn_bandwidth: float
  dimensions: int
  kind: str
  megacore: bool = False


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}: peak compute, HBM capacity and bandwidth,
# interchip interconnect bandwidth (bits there, bytes here); data centre network: that of a pod (v5e
# 6.4 Tb/s, v6e 25.6 Tb/s) over its 256 chips, v5p 50 Gb/s a chip, and for v4, whose is not stated
# there, the least of these.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 32 * GIB, 275e12, 1.228e12, 300e9, 3.125e9, 3, "TPU v4", megacore=True),
    Chip("v5e", 16 * GIB, 197e12, 0.819e12, 200e9, 3.125e9, 2, "TPU v5 lite"),
    Chip("v5p", 95 * GIB, 459e12, 2.765e12, 600e9, 6.25e9, 3, "TPU v5", megacore=True),
    Chip("v6e", 32 * GIB, 918e12, 1.640e12, 448e9, 12.5e9, 2, "TPU v6 lite"),
  )
}
# These numbers describe no real CPU. They serve tests, and a look at memory and collectives without
# libtpu.
CPU = Chip("cpu", 16 * GIB, 1e11, 2e10, 1e10, 1e10, 1, "cpu")

# nvidia.com, data sheets of the SXM cards: bfloat16 without sparsity, HBM, and NVLink in one
# direction, which is half of the number stated there. The memory is what CUDA reports of a card.
# Cards of one host, eight at most, share NVLink; the network between hosts is not the card's.
GPUS = {
  chip.name: chip
  for chip in (
    Chip("a100", 85_100_068_864, 312e12, 2.039e12, 300e9, 0.0, 1, "NVIDIA A100-SXM4-80GB"),
    Chip("h100", 84_942_979_072, 989e12, 3.35e12, 450e9, 0.0, 1, "NVIDIA H100 80GB HBM3"),
    Chip("h200", 151_397_597_184, 989e12, 4.8e12, 450e9, 0.0, 1, "NVIDIA H200"),
    Chip("b200", 191_514_411_008, 2250e12, 7.7e12, 900e9, 0.0, 1, "NVIDIA B200"),
  )
}
MOST_GPUS = 8  # of one host

# Other cards than those above, by how their names begin.
_OTHER_GPU_FLOPS = (("NVIDIA A100", 312e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100", 989e12))


def peak_flops(kind: str) -> float | None:
  """Matmul operations per second in bfloat16 of one device; None where they are not known.

  Args:
    kind: `jax.Device.device_kind`.
  """
  for chip in (*CHIPS.values(), *GPUS.values()):
    if kind == chip.kind:
      return chip.flops
  return next((flops for name, flops in _OTHER_GPU_FLOPS if kind.startswith(name)), None)
