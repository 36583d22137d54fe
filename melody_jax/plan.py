"""Plans a training run on a slice that is not here: does it fit, and what bounds its speed?

    python -m melody_jax.plan --config=configs/lm.py:paper --topology=v5e:16x16 --out=plan.json

Compiles the very train step of the config for the named TPU slice (v4, v5e, v5p, v6e; needs the
libtpu wheel, no TPU), or for virtual CPU devices (cpu:8), and prints per device: memory by use,
FLOPs, bytes, collectives, a roofline of the step time and the bound of MFU that follows. Exits
with status 1 where the config does not fit, naming the nearest setting that does.
"""

import dataclasses
import json
import pathlib
import sys

import ml_collections

from melody_jax import cli
from melody_jax.errors import UserError
from melody_jax.output_files import check_writable, write_files
from melody_jax.planning.topology import GIB, open_topology

EXIT_DOES_NOT_FIT = 1


def _lines(plan) -> list[str]:
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
    *(["custom calls:", *kernels] if kernels else []),
    f"at the chip's peaks: compute {plan.compute_seconds * 1e3:.2f} ms, HBM"
    f" {plan.hbm_seconds * 1e3:.2f} ms, interconnect {plan.ici_seconds * 1e3:.2f} ms",
    f"a step takes at least {plan.step_seconds * 1e3:.2f} ms, bound by {plan.binding}: MFU at most"
    f" {100 * plan.mfu_bound:.0f} %",
    f"(compiled in {plan.compile_seconds:.0f} s)",
  ]


def plan(config: ml_collections.ConfigDict, topology: str, out: str) -> bool:
  """Prints the plan, writes it to `out` as JSON; returns whether the config itself fits."""
  if out:
    check_writable(out, (".json",))
  slice_ = open_topology(topology)  # before anything else asks JAX for its devices
  from melody_jax.planning import train_plan

  def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

  found = train_plan.plan_step(config, slice_)
  result = dataclasses.asdict(found)
  print("\n".join(_lines(found)))
  if not found.fits:
    nearest = train_plan.nearest_fit(config, slice_, report)
    result["nearest"] = dataclasses.asdict(nearest) if nearest else None
    if nearest:
      flags = " ".join(f"--config.{k}={v}" for k, v in nearest.settings.items())
      print(f"nearest setting that fits: {flags}")
      print("\n".join(_lines(nearest)))
    else:
      print("no setting tried fits: take a larger slice, or a smaller model")
  if out:
    write_files({pathlib.Path(out): json.dumps(result, indent=2).encode()})
  return found.fits


def main(config: ml_collections.ConfigDict, topology: str, out: str) -> None:
  """The command."""
  if not topology:
    raise UserError("--topology=NAME is missing, for example --topology=v5e:16x16 or cpu:8")
  if "task" not in config:
    raise UserError("--config must be a training config, for example configs/lm.py:paper")
  if not plan(config, topology, out):
    raise SystemExit(EXIT_DOES_NOT_FIT)


if __name__ == "__main__":
  cli.run(main, strings={"topology": "Slice, for example v5e:16x16.", "out": "JSON to write."})
