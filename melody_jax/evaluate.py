"""Measures a bundle of trained models, as the model card states it, or the audio of any system.

    python -m melody_jax.evaluate --config=configs/evaluate.py:WHAT \
        --config.bundle=checkpoints/nano --config.data=recorded=DIR,rendered=DIR

WHAT is codec, tokens, mulan, dpd, prompts, sampling or all (all but sampling). Each writes
WHAT.json and WHAT.md under `config.out` and prints its table.

    python -m melody_jax.evaluate --config=configs/evaluate.py:audio \
        --config.generated=DIR --config.reference=DIR [--config.training=DIR]

compares files of audio, whatever made them, and writes audio.csv and audio.html too.
"""

from collections.abc import Callable
import dataclasses
import importlib
import math
import time
from typing import Any

import ml_collections

from melody_jax import cli, provenance
from melody_jax.config import check_numbers, check_page, check_ranges, listed
from melody_jax.errors import UserError, check_choice
from melody_jax.evaluation.clips import existing_split
from melody_jax.evaluation.finding import Finding, check_out, write
from melody_jax.places import buckets
from melody_jax.places.bundles import locate
from melody_jax.progress import print_progress

# Named, not imported: --help and a wrong command line must not wait for JAX.
EVALUATIONS = {
  "codec": "melody_jax.evaluation.codec:codec",
  "tokens": "melody_jax.evaluation.tokens:tokens",
  "mulan": "melody_jax.evaluation.mulan:mulan",
  "dpd": "melody_jax.evaluation.denoiser:dpd",
  "prompts": "melody_jax.evaluation.prompts:prompts",
}
# Not among "all": it compares ways to sample, which sweeps ask for.
ALONE = {"sampling": "melody_jax.evaluation.systems.sampling:sampling"}
# Nor this one: it measures files, and no bundle.
OF_FILES = {"audio": "melody_jax.evaluation.systems.audio:audio"}

RANGES = {
  "seed": (0, 2**32 - 1),
  "window_seconds": (0.01, math.inf),
  "codec.chunk_seconds": (0.01, math.inf),
  "codec.context_seconds": (0, math.inf),
  "audio.players": (0, math.inf),
} | {
  key: (1, math.inf)
  for key in (
    "batch_size",
    "tokens.explained_windows",
    "mulan.clips",
    "mulan.k",
    "mulan.draws",
    "dpd.windows",
    "dpd.draws",
    "prompts.permutations",
    "sampling.seconds",
    "sampling.reference_windows",
    "audio.max_seconds",
    "audio.draws",
  )
}


def _with_existing_split(
  what: str, config: ml_collections.ConfigDict
) -> tuple[str, ml_collections.ConfigDict, str]:
  """The split that an evaluation reads, the config that names it, and a note where it is another.

  Raises:
    UserError: if the datasets have no split at all.
  """
  if what == "prompts" or what in OF_FILES:  # reads no data
    return config.split, config, ""
  wanted = config.codec.split if what == "codec" else config.split
  split = existing_split(config.data, wanted)
  if split == wanted:
    return split, config, ""
  config = config.copy_and_resolve_references()
  if what == "codec":
    config.codec.split = split
  else:
    config.split = split
  note = f"The data have no split {wanted!r}: this was measured on {split!r}"
  note += ", which the models were trained on." if split == "train" else "."
  return split, config, note


def _evaluation(what: str) -> Callable[[ml_collections.ConfigDict], Finding]:
  # Late: what is wrong with the command line is told before JAX is loaded.
  from melody_jax.generation import programs

  programs.use_compilation_cache()
  module, name = (EVALUATIONS | ALONE | OF_FILES)[what].split(":")
  return getattr(importlib.import_module(module), name)


def _reads_bundle(config: ml_collections.ConfigDict) -> bool:
  """Whether a bundle is asked for: files of audio need none but for its MuLan."""
  return config.what not in OF_FILES or "mulan" in listed(config.audio.embeddings)


def _read_by(what: str, split: str, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What was read, for the JSON file; an evaluation of files tells its folders itself."""
  found: dict[str, Any] = {}
  if _reads_bundle(config):
    from melody_jax import bundle

    found |= {"bundle": config.bundle, "bundle_sha256": bundle.digest(config.bundle)}
  return found if what in OF_FILES else found | {"data": config.data, "split": split}


def evaluate(config: ml_collections.ConfigDict) -> None:
  """Runs the evaluation that `config.what` names, or all of them, on the splits that there are.

  Args:
    config: Keys of configs/evaluate.py.

  Raises:
    UserError: for bad input. With "all", the others still run first.
  """
  check_page(config, "what", "codec")
  config = config.copy_and_resolve_references()
  check_choice("config.what", config.what, (*EVALUATIONS, "all", *ALONE, *OF_FILES))
  check_ranges(config, RANGES)
  check_numbers(config)
  if _reads_bundle(config):
    config.bundle = str(locate(config.bundle))
    # Told now: the first page may compute for minutes before it asks for a model.
    if not buckets.path_of(config.bundle).is_dir():
      raise UserError(f"no bundle directory {config.bundle!r} (config.bundle): check the path")
  failures = []
  asked = tuple(EVALUATIONS) if config.what == "all" else (config.what,)
  check_out(config.out, asked)
  for what in asked:
    began = time.monotonic()
    try:
      split, here, note = _with_existing_split(what, config)
      finding = _evaluation(what)(here)
      if note:  # not before: where a model is missing, that alone is told
        print_progress(f"{what}: {note}")
    except UserError as error:
      # One page that lacks its model must not cost the others their numbers.
      if config.what != "all":
        raise
      failures.append(f"{what}: {error}")
      print_progress(failures[-1])
      continue
    context = {
      **_read_by(what, split, config),
      "settings": here[what].to_dict() if what in here else {},
      "seed": config.seed,
      "seconds": round(time.monotonic() - began, 1),
      "device": provenance.device_name(),
      "versions": provenance.versions(),
    }
    if note:
      finding = dataclasses.replace(finding, markdown=f"{note}\n\n{finding.markdown}")
    paths = write(finding, config.out, context)
    print(f"\n{finding.markdown}\n\n{', '.join(map(str, paths))}", flush=True)
  if failures:
    raise UserError("; ".join(failures))


if __name__ == "__main__":
  cli.run(evaluate, page="evaluate")
