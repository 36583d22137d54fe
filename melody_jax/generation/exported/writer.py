"""Writes the whole sampler to one file that samples without this package.

The file, a zip archive, holds the compiled program of `generation.window` (StableHLO, by
`jax.export`), the parameters, the style tokens of some prompts, and a loader that needs jax and
numpy only (`loader`, which says how to use it).
"""

import inspect
import io
import json
import pathlib
from typing import Any
import zipfile

import jax
from jax import export as jax_export
import ml_collections
import numpy as np

from melody_jax import bundle, output_files
from melody_jax.errors import UserError
from melody_jax.generation import window as window_program
from melody_jax.generation.config import check_settings, settings_of, texts_of
from melody_jax.generation.exported import loader
from melody_jax.generation.melody import Melody
from melody_jax.generation.options import MAX_STEPS, OPTIONS, Range
from melody_jax.generation.request import Prompt
from melody_jax.generation.schedules import SCHEDULES, angle_schedule
from melody_jax.models.vae import decoder_reach
from melody_jax.progress import print_progress
from melody_jax.provenance import MARK
from melody_jax.task import TASKS

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIX = ".sampler"


def write_sampler(config: ml_collections.ConfigDict, out: str, platforms: tuple[str, ...]) -> None:
  """Writes the file.

  Args:
    config: Keys of configs/sample.py: checkpoint, texts, batch size (`count`) and settings.
    out: File to write, *.sampler.
    platforms: Platforms to compile for, some of PLATFORMS.

  Raises:
    UserError: if settings or the checkpoint are no good; nothing is written then.
  """
  output_files.check_writable(out, (SUFFIX,))
  models = [bundle.path_of(config.checkpoint, model) for model in TASKS]
  allow = "allow it with --config.overwrite=True"
  output_files.check_outputs([out], models, config.overwrite, allow)
  unknown = [p for p in platforms if p not in PLATFORMS]
  if unknown or not platforms:
    raise UserError(
      f"--platforms is {','.join(platforms)!r}; it takes some of {','.join(PLATFORMS)}"
    )
  check_settings(config)
  if config.mode != "generate":
    raise UserError("an exported sampler makes music from texts: leave config.mode as it is")
  for key in ("music_prompt", "times", "weights", "negative_prompt"):
    if config[key].strip():
      raise UserError(f"an exported sampler takes single texts, without config.{key}: leave it out")
  texts = texts_of(config.prompt)

  melody = Melody.load(config.checkpoint)
  melody.tell_unheard(texts, print_progress)
  styles = {t: melody.styles.tokens(melody.styles.embed((Prompt(t),))).tolist() for t in texts}
  program, params, meta = _exported(melody, config, platforms)
  contents = io.BytesIO()
  with zipfile.ZipFile(contents, "w") as archive:
    archive.writestr("program.jax", bytes(program))
    for name, arrays in (("params.npz", params), ("schedules.npz", _schedules())):
      stored = io.BytesIO()
      np.savez(stored, **arrays)  # type: ignore[arg-type]
      archive.writestr(name, stored.getvalue())
    archive.writestr("meta.json", json.dumps({**meta, "styles": styles}, indent=1))
    # The very source that tests run, so the file cannot fall behind it.
    archive.writestr("loader.py", inspect.getsource(loader))
    archive.comment = MARK.encode()
  output_files.write_files({pathlib.Path(out): contents.getvalue()})


def _schedules() -> dict[str, np.ndarray]:
  """Angle steps by schedule: float32 [MAX_STEPS, MAX_STEPS], row T - 1 has T steps, then zeros.

  The loader reads them here instead of knowing the formulas a second time; 40 kB a schedule.
  """
  return {
    name: np.stack(
      [np.pad(angle_schedule(name, n), (0, MAX_STEPS - n)) for n in range(1, MAX_STEPS + 1)]
    )
    for name in SCHEDULES
  }


# Names of the program's arguments that differ from those of the options.
_RENAMED = {"guard.penalty": "repetition_penalty", "guard.span": "repetition_span"}


def _range_of(control: str) -> tuple[float, float, str, bool] | None:
  """What the loader takes for a number, by the table that the command goes by; None: any."""
  option = _RENAMED.get(control, control.rsplit(".", 1)[-1])
  takes = OPTIONS.get(option)
  if not isinstance(takes, Range):
    return None
  # The program that is exported divides by the temperature; at 0 the package runs another.
  low = max(takes.low, 1e-3) if option == "temperature" else takes.low
  limits = (int(x) if x == int(x) else x for x in (low, takes.high))  # 600, not 600.0
  return (*limits, takes.unit, takes.whole)  # type: ignore[return-value]


def _exported(melody, config, platforms) -> tuple[bytearray, dict[str, np.ndarray], dict[str, Any]]:
  """Serialised program, flat parameters, and what the loader must know."""
  settings = settings_of(config)
  networks = melody.networks.in_dtype(settings.dtype)
  params = jax.device_get(melody.params_in(settings.dtype))
  # Without the encoder, which sampling never calls: a smaller file.
  params = {**params, "vae": {k: v for k, v in params["vae"].items() if k != "encoder"}}
  controls, structure = jax.tree_util.tree_flatten_with_path(window_program.controls(settings))
  names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in controls]
  # Python's numbers come as 64 bits, which the program does not compute in.
  narrow = {"float64": np.float32, "int64": np.int32}
  arrays = [np.asarray(x) for _, x in controls]
  leaves = [x.astype(narrow.get(str(x.dtype), x.dtype)) for x in arrays]

  def program(flat, window, numbers):
    window = window_program.Window(
      **{**window, "reads": window_program.token_sampler.Reads(**window["reads"])}
    )
    how = jax.tree.unflatten(structure, [numbers[name] for name in names])
    made = window_program.run(networks, bundle.unflatten(flat), window, how)
    return {"tokens": made.tokens, "latents": made.latents, "audio": made.audio, "nfe": made.nfe}

  flat = bundle.flatten(params)
  meta = {
    "batch": config.count,
    "bundle_sha256": melody.digest,
    "controls": {n: (str(x.dtype), x.tolist()) for n, x in zip(names, leaves, strict=True)},
    "free": {name: _range_of(name) for name in names},
    "ranges": {name: _range_of(name) for name in ("steps", "seconds", "seed")},
    "mark": MARK,
    "style_levels": networks.lm.config.style_levels,
    "style_vocab": networks.lm.config.style_vocab,
    "schedule": settings.schedule,
    "sample_rate": melody.sample_rate,
    "tokens": networks.tokens,
    "frames": networks.frames,
    "hop": networks.codec.hop_length,
    "latent_dim": networks.codec.latent_dim,
    "reach": decoder_reach(networks.codec),
    "chunks": networks.chunks,
    "null_style": networks.lm.config.null_style,
  }
  # Shapes come from the loader itself: it is what will call the program.
  example = loader.first_window(meta, [0] * networks.lm.config.style_levels, 0)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), (flat, example))
  numbers = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in zip(names, leaves, strict=True)}
  # One file for several platforms: kernels that suit each are chosen when it is loaded.
  made = jax_export.export(jax.jit(program), platforms=platforms)(*shapes, numbers)
  return made.serialize(), flat, meta
