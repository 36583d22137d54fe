"""Exports the whole sampler to one file that samples without this package.

    python -m melody_jax.export_sampler --config=configs/sample.py --out=nano.sampler \
        --config.prompt="slow bossa nova | dark ambient techno" --platforms=cpu

What the file holds: `generation.exported.writer`; how it is used: `generation.exported.loader`.
Settings of the config are the defaults; numbers may be changed when sampling, what is off (a scale
of 1, no filter) stays off.
"""

import os

import ml_collections

from melody_jax import cli
from melody_jax.config import check_page, listed
from melody_jax.errors import UserError


def main(config: ml_collections.ConfigDict, out: str, platforms: str) -> None:
  """The command."""
  check_page(config, "mode", "guidance_scale")
  import jax

  from melody_jax.generation.exported.writer import write_sampler

  if not out:
    raise UserError("--out=FILE.sampler is missing")
  here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
  write_sampler(config, out, tuple(listed(platforms or here)))
  print(f"{out}: {os.path.getsize(out) / 2**20:.1f} MiB")


if __name__ == "__main__":
  cli.run(
    main,
    strings={"out": "File to write, *.sampler.", "platforms": "cpu, cuda, tpu; default: here."},
    page="sample",
  )
