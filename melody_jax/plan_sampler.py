"""Plans sampling on a chip that is not here: does the batch fit, and how fast could it be?

    python -m melody_jax.plan_sampler --config=configs/sample.py --preset=paper --topology=v5e:2x2 \
        --config.count=16 --config.steps=20 --config.dtype=bfloat16 --out=plan.json

Compiles the sampler's program, at the sizes of a preset and with weights that need not exist, for
one chip of the named slice (v4, v5e, v5p, v6e; needs the libtpu wheel, no TPU), or for a virtual
CPU device (cpu:1). Prints its memory, the largest batch that fits, and the least time of each
stage. `config.count` is the batch of one chip; chips of a slice sample side by side. Exits with
status 1 where it does not fit.
"""

import dataclasses
import importlib.util
import json
import pathlib

import ml_collections

from melody_jax import cli, sample_config
from melody_jax.errors import UserError
from melody_jax.output_files import check_writable, write_files
from melody_jax.planning.topology import GIB, open_topology

EXIT_DOES_NOT_FIT = 1


def _model_config(model: str, preset: str) -> ml_collections.ConfigDict:
  """`model` of configs/<model>.py:<preset>, of the checkout that this runs in.

  Raises:
    UserError: without that file, or for an unknown preset.
  """
  path = pathlib.Path("configs") / f"{model}.py"
  spec = importlib.util.spec_from_file_location(f"configs_{model}", path)
  if not path.is_file() or spec is None or spec.loader is None:
    raise UserError(f"no {path}: run this from the checkout")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    return module.get_config(preset).model
  except KeyError as e:
    raise UserError(f"--preset is {preset!r}; it must be one of paper, nano, tiny") from e


def lines(plan) -> list[str]:
  """A report for people."""
  stages = [
    f"  {s.name:8s} {s.passes:4d} passes, {s.flops / 1e12:9.3f} TFLOP,"
    f" {s.weight_bytes / GIB:8.2f} GiB of weights: at least {1e3 * s.seconds:8.2f} ms ({s.bound})"
    for s in plan.stages
  ]
  peak = f"{plan.peak_bytes / GIB:.2f} of {plan.hbm_bytes / GIB:.0f} GiB"
  return [
    f"one {plan.chip} chip, batch {plan.batch_size}, {plan.steps} steps, {plan.dtype}",
    f"  parameters {plan.parameter_bytes / GIB:.2f} GiB, peak {peak}:"
    f" {'fits' if plan.fits else 'DOES NOT FIT'}; largest batch {plan.largest_batch or 'unknown'}",
    *stages,
    f"  at most {plan.real_time_factor_bound:.0f} seconds of audio a second",
    f"(compiled in {plan.compile_seconds:.0f} s)",
  ]


def main(config: ml_collections.ConfigDict, preset: str, topology: str, out: str) -> None:
  """The command."""
  if not topology:
    raise UserError("--topology=NAME is missing, for example --topology=v5e:2x2 or cpu:1")
  if "guidance_scale" not in config:
    raise UserError("--config must be configs/sample.py: its steps, count, dtype and guidance")
  if out:
    check_writable(out, (".json",))
  slice_ = open_topology(topology)  # before anything else asks JAX for its devices
  settings = sample_config.settings_of(config)
  lm, dpd, vae = (_model_config(model, preset or "nano") for model in ("lm", "dpd", "vae"))

  from melody_jax.planning import sample_plan

  networks = sample_plan.networks_of(lm, dpd, vae, settings.dtype)
  plan = sample_plan.plan_sampler(networks, config.count, settings, slice_)
  print("\n".join(lines(plan)))
  if out:
    write_files({pathlib.Path(out): json.dumps(dataclasses.asdict(plan), indent=2).encode()})
  if not plan.fits:
    raise SystemExit(EXIT_DOES_NOT_FIT)


if __name__ == "__main__":
  cli.run(
    main,
    strings={
      "preset": "paper, nano (default) or tiny.",
      "topology": "Slice, for example v5e:2x2.",
      "out": "JSON to write.",
    },
  )
