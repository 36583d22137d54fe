"""Measures a bundle of trained models: what the model card states.

    python -m melody_jax.evaluate --config=configs/evaluate.py:WHAT \
        --config.bundle=checkpoints/nano --config.data=recorded=DIR,rendered=DIR

WHAT is codec, tokens, mulan, dpd, prompts or all. Each writes WHAT.json and WHAT.md under
`config.out` and prints its table.
"""

from collections.abc import Callable
import math
import time

import ml_collections

from melody_jax import buckets, bundle, cli, provenance
from melody_jax.config import check_ranges
from melody_jax.errors import UserError, check_choice
from melody_jax.evaluation.codec import codec
from melody_jax.evaluation.denoiser import dpd
from melody_jax.evaluation.finding import Finding, write
from melody_jax.evaluation.mulan import mulan
from melody_jax.evaluation.prompts import prompts
from melody_jax.evaluation.tokens import tokens
from melody_jax.generation import programs
from melody_jax.progress import print_progress

EVALUATIONS: dict[str, Callable[[ml_collections.ConfigDict], Finding]] = {
  "codec": codec,
  "tokens": tokens,
  "mulan": mulan,
  "dpd": dpd,
  "prompts": prompts,
}

RANGES = {
  "seed": (0, 2**32 - 1),
  "window_seconds": (0.01, math.inf),
  "codec.chunk_seconds": (0.01, math.inf),
  "codec.context_seconds": (0, math.inf),
} | {
  key: (1, math.inf)
  for key in (
    "batch_size",
    "mulan.clips",
    "mulan.k",
    "mulan.draws",
    "dpd.windows",
    "dpd.draws",
    "prompts.permutations",
  )
}


def evaluate(config: ml_collections.ConfigDict) -> None:
  """Runs the evaluation that `config.what` names, or all of them.

  Raises:
    UserError: for bad input. With "all", the others still run first.
  """
  check_choice("config.what", config.what, (*EVALUATIONS, "all"))
  check_ranges(config, RANGES)
  if not buckets.path_of(config.bundle).is_dir():
    raise UserError(f"no bundle directory {config.bundle!r} (config.bundle)")
  programs.use_compilation_cache()
  failures = []
  for what in EVALUATIONS if config.what == "all" else (config.what,):
    began = time.monotonic()
    try:
      finding = EVALUATIONS[what](config)
    except UserError as error:
      if config.what != "all":
        raise
      failures.append(f"{what}: {error}")
      print_progress(failures[-1])
      continue
    context = {
      "bundle": config.bundle,
      "bundle_sha256": bundle.digest(config.bundle),
      "data": config.data,
      "split": config.codec.split if what == "codec" else config.split,
      "settings": config[what].to_dict() if what in config else {},
      "seed": config.seed,
      "seconds": round(time.monotonic() - began, 1),
      "device": provenance.device_name(),
      "versions": provenance.versions(),
    }
    paths = write(finding, config.out, context)
    print(f"\n{finding.markdown}\n\n{', '.join(map(str, paths))}", flush=True)
  if failures:
    raise UserError("; ".join(failures))


if __name__ == "__main__":
  cli.run(evaluate)
