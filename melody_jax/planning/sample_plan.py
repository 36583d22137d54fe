"""Memory and least time of the sampler on a chip that is not at hand.

The memory is what the real compiler reports. The least time of a stage is computed from its work
and the chip's peaks.

One chip is planned: the items of a batch do not depend on each other, so a slice of n chips samples
n times as many. Parameters are shapes only; no checkpoint is needed.

Shape letters: see `generation.window`.
"""

import dataclasses
import time
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from melody_jax.denoisers import choice
from melody_jax.encoders.codec import decode_latents
from melody_jax.generation import window as window_program
from melody_jax.generation.request import Settings
from melody_jax.generation.token_sampler import Reads
from melody_jax.generation.window import Networks
from melody_jax.host.chips import GIB
from melody_jax.models import lm as lm_model
from melody_jax.models import vae as vae_model
from melody_jax.models.layers import config_from
from melody_jax.planning.hlo import Program
from melody_jax.planning.topology import Topology
from melody_jax.planning.train_plan import HBM_SHARE, needed_bytes
from melody_jax.sharding import MESH_AXES
from melody_jax.training.flops import matmul_flops


@dataclasses.dataclass
class Stage:
  """One stage of sampling a window, for the whole batch.

  Attributes:
    name: "lm", "dpd" or "decoder".
    passes: Number of passes of its network.
    flops: Matmul operations of all passes.
    weight_bytes: Bytes of weights that all passes read from memory, at least.
    seconds: Least time of the stage at the chip's peaks.
    bound: What sets that time: "compute" or "hbm".
  """

  name: str
  passes: int
  flops: float
  weight_bytes: float
  seconds: float = 0.0
  bound: str = ""


@dataclasses.dataclass
class SamplePlan:
  """Plan of one window of music for a batch on one chip. Sizes in bytes, times in seconds.

  Attributes:
    chip: Name of the chip.
    batch_size: Number of items that were asked for.
    steps: Number of denoising steps.
    dtype: Dtype of computation and of stored matrices.
    parameter_bytes: Size of the parameters of all three models.
    peak_bytes: Memory at the worst moment. Where the compiler gave up, what it said it needs.
    hbm_bytes: Memory of the chip.
    fits: Whether the peak fits the chip's memory.
    largest_batch: Largest batch that fits, by the memory per item of this program; None: unknown.
    stages: The stages in their order.
    custom_calls: {target: number of times it runs, loops of unknown length once}; kernels of ours
      and of libraries are among them.
    real_time_factor_bound: Seconds of audio (all items together) per second, at most.
    compile_seconds: Time of the compilation on this machine.
  """

  chip: str
  batch_size: int
  steps: int
  dtype: str
  parameter_bytes: float
  peak_bytes: float
  hbm_bytes: float
  fits: bool
  largest_batch: int | None
  stages: list[Stage]
  custom_calls: dict[str, int]
  real_time_factor_bound: float
  compile_seconds: float


def networks_of(lm: Any, dpd: Any, vae: Any, dtype: str) -> Networks:
  """The networks of three training configs.

  Args:
    lm: `config.model` of the semantic LM.
    dpd: `config.model` of the DPD.
    vae: `config.model` of the VAE.
    dtype: Dtype of computation.

  Raises:
    UserError: if a window is not a whole number of chunks; such models cannot sample.
  """
  networks = Networks(
    lm_model.SemanticLM(config_from(lm_model.LMConfig, lm)),
    choice.network_of(choice.config_of(dpd)),
    config_from(vae_model.VAEConfig, vae),
  ).in_dtype(dtype)
  networks.check_chunks()
  return networks


def abstract_params(networks: Networks, dtype: str) -> dict[str, Any]:
  """Shapes of the program's parameters; matrices have `dtype`, as in `Melody`."""
  # Shapes only: no parameter of a paper-size model is ever allocated.
  key = jax.eval_shape(lambda: jax.random.key(0))
  d = networks.codec.latent_dim

  def vae(key):
    latents = jnp.zeros((1, 4, d))
    # Only the decoder: sampling never encodes.
    model = vae_model.VAE(networks.codec)
    return model.init(key, latents, method="decode")["params"]

  shapes = {
    "lm": jax.eval_shape(lambda k: networks.lm.init(k, jnp.zeros((1, 16), jnp.int32)), key)[
      "params"
    ],
    "dpd": jax.eval_shape(lambda k: choice.init(networks.dpd.config, k), key),
    "vae": jax.eval_shape(vae, key),
  }
  shapes = nn.meta.unbox(shapes)
  # Fitted after training, so no init makes it.
  scale = jax.ShapeDtypeStruct((d,), jnp.float32)
  shapes["vae"] = {**shapes["vae"], "latent_scale": {"center_D": scale, "sigma_D": scale}}

  def cast(path, x):
    is_matrix = path[-1].key in ("kernel", "embedding")
    return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype) if is_matrix else x.dtype)

  return jax.tree_util.tree_map_with_path(cast, shapes)


def abstract_window(networks: Networks, batch: int) -> window_program.Window:
  """Shapes of the program's input for a batch of this many items."""

  def of(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

  levels, places = networks.lm.config.style_levels, of("int32", networks.chunks)
  return window_program.Window(
    seeds=of("uint32", batch),
    start_frame=of("int32", batch),
    first_token=of("int32", batch),
    style_tokens=of("int32", batch, networks.chunks, levels),
    negative_style=of("int32", batch, levels),
    reads=Reads(places, places, places, of("int32")),
    tokens=of("int32", batch, networks.tokens),
    tokens_known=of("bool", batch, networks.tokens),
    latents=of("float32", batch, networks.frames, networks.codec.latent_dim),
    known=of("float32", batch, networks.frames),
    end_frame=of("int32", batch),
  )


def _bytes(tree: Any) -> float:
  return float(
    sum(np.prod(x.shape, dtype=np.int64) * x.dtype.itemsize for x in jax.tree.leaves(tree))
  )


def _stages(networks: Networks, params: Any, batch: int, settings: Settings) -> list[Stage]:
  """Work of one window, stage by stage, counted without compiling."""

  def of(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

  c, w, length = networks.lm.config, networks.tokens, networks.frames
  # Guidance reads each item twice.
  rows = batch * (2 if settings.lm_guidance_scale != 1 else 1)
  # The cache has its full size from the first token on: attention always runs over all of it.
  size = c.style_levels + w
  cache = of(c.dtype, rows, c.n_heads, size, c.head_size)
  caches = lm_model.KVCache((cache,) * c.n_layers, (cache,) * c.n_layers)
  token = matmul_flops(
    lambda p, ids, at, cache: lm_model.decode_step(networks.lm, p, ids, at, cache),
    params["lm"], of("int32", rows), of("int32"), caches,
  )  # fmt: skip
  read = matmul_flops(
    lambda p, ids, n: lm_model.prefill(networks.lm, p, ids, n, size),
    params["lm"], of("int32", rows, size), of("int32"),
  )  # fmt: skip
  method = "with_and_without" if settings.guidance_scale != 1 else None
  step = matmul_flops(
    lambda p, *inputs: networks.dpd.apply({"params": p}, *inputs, method=method),
    params["dpd"], of("float32", batch, length, networks.codec.latent_dim),
    of("float32", batch, length), of("int32", batch, w),
  )  # fmt: skip
  decode = matmul_flops(
    lambda p, z: decode_latents(networks.codec, p, z),
    params["vae"], of("float32", batch, length, networks.codec.latent_dim),
  )  # fmt: skip
  # Looking up an embedding reads a row, not the table.
  lm_bytes = _bytes({k: v for k, v in params["lm"].items() if k != "embed"})
  return [
    # One pass reads the prefix and gives the first token.
    Stage("lm", w, read + (w - 1) * token, w * lm_bytes),
    Stage("dpd", settings.steps, settings.steps * step, settings.steps * _bytes(params["dpd"])),
    Stage("decoder", 1, decode, _bytes(params["vae"])),
  ]


def plan_sampler(
  networks: Networks, batch: int, settings: Settings, topology: Topology
) -> SamplePlan:
  """Compiles the program of `generation.window`, as it is, for one chip.

  Args:
    networks: The networks, in `settings.dtype`.
    batch: Number of items on the chip.
    settings: Steps, guidance and dtype.
    topology: Slice whose first chip is planned for.
  """
  chip, params = topology.chip, abstract_params(networks, settings.dtype)
  stages = _stages(networks, params, batch, settings)
  for stage in stages:
    compute, hbm = stage.flops / chip.flops, stage.weight_bytes / chip.hbm_bandwidth
    stage.seconds, stage.bound = max((compute, "compute"), (hbm, "hbm"))
  window = abstract_window(networks, batch)
  controls = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)),
    window_program.controls(settings),
  )
  # A mesh of one chip: the compiler then knows the target, and nothing is partitioned.
  mesh = Mesh(np.asarray(topology.devices[:1]).reshape(1, 1, 1), MESH_AXES)
  everywhere = NamedSharding(mesh, PartitionSpec())
  began, peak, largest = time.monotonic(), 0.0, None
  calls: dict[str, int] = {}
  program = jax.jit(
    lambda p, x, how: window_program.run(networks, p, x, how),
    in_shardings=everywhere, out_shardings=everywhere,
  )  # fmt: skip
  try:
    with jax.set_mesh(mesh), topology.tracing():
      compiled = program.lower(params, window, controls).compile()
  except Exception as error:  # XLA's own kinds
    needed = needed_bytes(error)
    if needed is None:
      raise
    peak = needed
  else:
    memory: Any = compiled.memory_analysis()
    # Arguments are mostly parameters, which do not grow with the batch.
    fixed = memory.argument_size_in_bytes + memory.generated_code_size_in_bytes
    items = memory.temp_size_in_bytes + memory.output_size_in_bytes
    peak = float(fixed + items)
    calls = Program(compiled.as_text() or "").custom_calls()
    # Items are assumed to cost the same at any batch size; the compiler may do a little better.
    largest = int((HBM_SHARE * chip.hbm_bytes - fixed) // (items / batch)) if items else None
  seconds = sum(stage.seconds for stage in stages)
  return SamplePlan(
    chip=chip.name, batch_size=batch, steps=settings.steps, dtype=settings.dtype,
    parameter_bytes=_bytes(params), peak_bytes=peak, hbm_bytes=float(chip.hbm_bytes),
    fits=peak <= HBM_SHARE * chip.hbm_bytes, largest_batch=largest, stages=stages,
    custom_calls=calls,
    real_time_factor_bound=batch * networks.seconds / seconds,
    compile_seconds=time.monotonic() - began,
  )  # fmt: skip


def lines(plan: SamplePlan) -> list[str]:
  """The plan as lines to print."""
  stages = [
    f"  {s.name:8s} {s.passes:4d} passes, {s.flops / 1e12:9.3f} TFLOP,"
    f" {s.weight_bytes / GIB:8.2f} GiB of weights: at least {1e3 * s.seconds:8.2f} ms ({s.bound})"
    for s in plan.stages
  ]
  kernels = [f"    {name} x {times}" for name, times in sorted(plan.custom_calls.items())]
  peak = f"{plan.peak_bytes / GIB:.2f} of {plan.hbm_bytes / GIB:.0f} GiB"
  return [
    f"one {plan.chip} chip, batch {plan.batch_size}, {plan.steps} steps, {plan.dtype}",
    f"  parameters {plan.parameter_bytes / GIB:.2f} GiB, peak {peak}:"
    f" {'fits' if plan.fits else 'DOES NOT FIT'}; largest batch {plan.largest_batch or 'unknown'}",
    *stages,
    *(["  custom calls:", *kernels] if kernels else []),
    f"  at most {plan.real_time_factor_bound:.0f} seconds of audio a second",
    f"(compiled in {plan.compile_seconds:.0f} s)",
  ]
