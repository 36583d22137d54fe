"""Plans a training step, or sampling, on a slice that is not here: does it fit, how fast is it?

    python -m melody_jax.plan --config=configs/lm.py:paper --topology=v5e:16x16 --out=plan.json
    python -m melody_jax.plan --config=configs/sample.py --preset=paper --topology=v5e:2x2 \
        --config.count=16 --config.steps=20 --config.dtype=bfloat16 --out=plan.json

    python -m melody_jax.plan --config=configs/lm.py:paper --topology=v5e:16x16 --slices=4
    python -m melody_jax.plan --config=configs/lm.py:paper --topology=v5e:16x16 --search
    python -m melody_jax.plan --config=configs/lm.py:paper --topology=h100x8

The config says what is planned. Either is compiled for the named TPU slice (v4, v5e, v5p, v6e;
needs the libtpu wheel, no TPU), for up to eight GPUs of one host (a100, h100, h200, b200; needs the
wheels of CUDA, no GPU), or for virtual CPU devices (cpu:8). Exits with status 1 where it does not
fit. With --slices=N a training step runs on N such slices.

A training config: the very train step; memory by use, FLOPs, bytes, collectives, a roofline of the
step time and the bound of MFU that follows, per device. Where it does not fit, the nearest setting
that does is named. With --search meshes, recomputation and parts of a batch are tried, each
compiled; printed is the best by its bound, with the flags that set it.

configs/sample.py: the sampler's program, at the sizes of a preset and with weights that need not
exist, for one chip of the slice (chips of a slice sample side by side; `config.count` is the batch
of one); its memory, the largest batch that fits, and the least time of each stage.
"""

import dataclasses
import json
import pathlib
from typing import Any

import ml_collections

from melody_jax import cli, provenance
from melody_jax.command_line.streams import check_stdout
from melody_jax.config import check_training
from melody_jax.errors import UserError
from melody_jax.generation.config import settings_of
from melody_jax.generation.options import check_option
from melody_jax.output_files import check_outputs, check_writable, write_files
from melody_jax.places.config_pages import load
from melody_jax.progress import print_progress

EXIT_DOES_NOT_FIT = 1
FLAGS = {
  "topology": "Slice or GPUs, for example v5e:16x16 or h100x8.",
  "preset": "Sizes of the sampler: paper, nano (default) or tiny.",
  "out": "JSON to write.",
  "slices": "Number of such slices that train as one; 1 by default.",
}
SWITCHES = {"search": "Try meshes, recomputation and parts of a batch; print the best."}


def show_step_plan(
  config: ml_collections.ConfigDict, topology: str, slices: int = 1
) -> dict[str, Any]:
  """Prints the plan of a training step, and of the nearest setting that fits where it does not.

  Returns:
    The plan's values; "nearest" holds those of the setting that fits.
  """
  from melody_jax.planning.topology import open_topology

  slice_ = open_topology(topology, slices)  # before anything else asks JAX for its devices
  from melody_jax.planning import train_plan

  found = train_plan.plan_step(config, slice_)
  # Printed before the search for a setting that fits, which compiles several more times.
  values = dataclasses.asdict(found)
  print("\n".join(train_plan.lines(found)))
  if not found.fits:
    nearest = train_plan.nearest_fit(config, slice_, print_progress)
    values["nearest"] = dataclasses.asdict(nearest) if nearest else None
    if nearest:
      flags = " ".join(f"--config.{k}={v}" for k, v in nearest.settings.items())
      print(f"nearest setting that fits: {flags}")
      print("\n".join(train_plan.lines(nearest)))
    else:
      print("no setting tried fits: take a larger slice, or a smaller model")
  return values


def show_search(
  config: ml_collections.ConfigDict, topology: str, slices: int = 1
) -> dict[str, Any]:
  """Prints the settings that were tried for a training step, and the best one's plan.

  Returns:
    The best plan's values; "tried" holds those of all settings, the best first.
  """
  from melody_jax.planning.topology import open_topology

  slice_ = open_topology(topology, slices)  # before anything else asks JAX for its devices
  from melody_jax.planning import search, train_plan

  plans = search.search(config, slice_, print_progress)
  print("\n".join([*map(search.row, plans), "", *train_plan.lines(plans[0])]))
  if plans[0].fits:
    print(f"best: {search.flags(plans[0].settings)}")
  else:
    print("no setting tried fits: take a larger slice, or a smaller batch")
  return dataclasses.asdict(plans[0]) | {"tried": [dataclasses.asdict(plan) for plan in plans]}


def show_sampler_plan(
  config: ml_collections.ConfigDict, topology: str, preset: str
) -> dict[str, Any]:
  """Prints the plan of the sampler at the sizes of a preset; returns its values."""
  from melody_jax.planning.topology import open_topology

  slice_ = open_topology(topology)  # before anything else asks JAX for its devices
  settings = settings_of(config)
  lm, dpd, vae = (load(model, preset).model for model in ("lm", "dpd", "vae"))

  from melody_jax.planning import sample_plan

  networks = sample_plan.networks_of(lm, dpd, vae, settings.dtype)
  found = sample_plan.plan_sampler(networks, config.count, settings, slice_)
  print("\n".join(sample_plan.lines(found)))
  return dataclasses.asdict(found)


def _number_of_slices(text: str) -> int:
  if text and not text.isdecimal():
    raise UserError(f"--slices={text}: a number of slices, as in --slices=4")
  return int(text or 1)


def main(
  config: ml_collections.ConfigDict,
  topology: str,
  preset: str,
  out: str,
  slices: str = "",
  search: bool = False,
) -> None:
  """The command.

  Raises:
    UserError: for settings that cannot be planned; nothing is compiled then.
  """
  if not topology:
    raise UserError("--topology=NAME is missing, for example --topology=v5e:16x16, h100x8 or cpu:8")
  trains, samples = "task" in config, "guidance_scale" in config
  if not trains and not samples:
    raise UserError(
      "--config must be a training config, for example configs/lm.py:paper, or configs/sample.py"
    )
  if trains:
    check_training(config)
  else:
    check_option("count", config.count, "config.count")
  if trains and preset:
    raise UserError(
      f"--preset={preset} goes with configs/sample.py: a training config names its own, as in"
      f" configs/{config.task}.py:{preset}"
    )
  n_slices = _number_of_slices(slices)
  if samples and not trains and n_slices > 1:
    raise UserError(f"--slices={slices} goes with a training config: each chip samples by itself")
  if search and not trains:
    raise UserError("--search goes with a training config: the sampler has no mesh to choose")
  if not out:
    check_stdout("the plan")
  else:
    check_writable(out, (".json",))
    check_outputs([out])
  if trains:
    values = (show_search if search else show_step_plan)(config, topology, n_slices)
  else:
    values = show_sampler_plan(config, topology, preset or "nano")
  if out:
    values["versions"] = provenance.versions()
    write_files({pathlib.Path(out): json.dumps(values, indent=2).encode()})
  # A status of its own: scripts can tell "does not fit" from a mistake.
  if not values["fits"]:
    raise SystemExit(EXIT_DOES_NOT_FIT)


if __name__ == "__main__":
  cli.run(main, strings=FLAGS, switches=SWITCHES)
