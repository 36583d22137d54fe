"""Text or a clip of music in, 24 kHz audio out.

    python -m melody_jax.sample --config=configs/sample.py --config.prompt="..." --config.out=x.wav

Writes the audio, a spectrogram (.png) and a report (.json) beside it, all three or none. A stream
(`--config.mode=stream`) writes while it generates, until it is interrupted or long enough.
"""

import pathlib
import threading
from typing import Any

import ml_collections
import numpy as np

from melody_jax import audio_io, cli, output_files
from melody_jax.config import check_page
from melody_jax.errors import UserError
from melody_jax.generation import prompt_list, report
from melody_jax.generation.config import STDOUT, check, read_clips, requests_of, settings_of
from melody_jax.generation.prompt_list import Piece
from melody_jax.progress import Progress, TimedProgress

# Each claim keeps a file open; many systems allow a process 1,024, some 256.
_CLAIMED = 100


def sample(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Makes what the config asks for and writes it, with a report, and a spectrogram of files.

  Args:
    config: Keys of configs/sample.py.

  Returns:
    The report; that of the last piece where there are several.

  Raises:
    UserError: if settings, files or checkpoints are no good; nothing is written then.
  """
  check_page(config, "mode", "guidance_scale")
  drawn, config = config.seed == prompt_list.DRAW, prompt_list.with_seed(config)
  check(config)
  pieces = prompt_list.pieces(config)
  # A piece's report stands for all of its files. Of very many pieces the name that they share does.
  names = [piece.out for piece in pieces] if len(pieces) <= _CLAIMED else [config.out]
  reports = [] if config.out == STDOUT else [pathlib.Path(n).with_suffix(".json") for n in names]
  saved = [pathlib.Path(config.stream.save)] if config.stream.save else []
  with output_files.claim([*reports, *saved]):
    return _sample(config, pieces, drawn)


def _sample(config, pieces: list[Piece], drawn: bool) -> dict[str, Any]:
  """The same, when nobody else writes these files."""
  progress = TimedProgress()
  if drawn:
    progress(f"seed {config.seed} was drawn: --config.seed={config.seed} makes the same again")
  # A bad clip or region is told apart before the models are loaded, which takes longer.
  clips = read_clips(config, progress)
  requests, settings = [], settings_of(config)
  if config.mode != "reconstruct" and not config.stream.resume:
    requests = requests_of(config, clips, pieces)

  # Only now is JAX imported: a bad option is told at once.
  from melody_jax.generation import programs
  from melody_jax.generation.melody import Melody

  programs.use_compilation_cache()
  progress(f"loading {config.checkpoint}")
  melody = Melody.load(config.checkpoint, generates=config.mode != "reconstruct")
  if config.mode == "stream":
    from melody_jax.generation import stream_writer

    return stream_writer.run(config, melody, requests, settings, clips, progress)
  # They take seconds to import, and the device computes meanwhile.
  threading.Thread(target=audio_io.import_writers, daemon=True).start()
  if clips.audio is not None and config.mode == "reconstruct":
    return _finish([config], melody, [melody.reconstruct(clips.audio, progress)], progress)
  # Up to MAX_COUNT of one prompt are one batch, as was asked; prompts of a file are split.
  parts = prompt_list.batches(len(pieces)) if config.prompts else [range(len(pieces))]
  contents: dict[str, Any] = {}
  for part in parts:
    if len(parts) > 1:
      progress(f"prompts {part.start + 1} to {part.stop} of {len(pieces)}")
    made = melody.generate([requests[i] for i in part], settings, progress)
    configs = [prompt_list.config_of(config, pieces[i]) for i in part]
    contents = _finish(configs, melody, made, progress)
  return contents


def _finish(configs, melody, pieces, progress: Progress) -> dict[str, Any]:
  """Checks, levels and writes pieces, each as its config says; returns the last one's report."""
  files: dict[pathlib.Path, bytes] = {}
  contents: dict[str, Any] = {}
  progress("writing")
  for config, music in zip(configs, pieces, strict=True):
    out, wave = pathlib.Path(config.out), music.audio
    if not np.isfinite(wave).all():
      raise UserError(
        f"{config.checkpoint} gave samples that are not finite: train or export it again"
      )
    if config.normalise:
      wave = audio_io.normalise_loudness(wave, melody.sample_rate, config.loudness)
    contents = _report(config, melody, music, wave, len(pieces))
    files |= {
      out: audio_io.encode(wave, out.suffix.lower(), melody.sample_rate),
      out.with_suffix(".png"): audio_io.spectrogram_png(wave, melody.sample_rate, _title(config)),
      out.with_suffix(".json"): report.to_json(contents),
    }
  output_files.write_files(files)
  names = configs[0].out if len(pieces) == 1 else f"{len(pieces)} pieces to {configs[-1].out}"
  progress(
    f"{names}: {contents['seconds']:.1f} s of audio in {music.generation_seconds:.1f} s"
    f" ({contents['real_time_factor']:.1f}x real time), compiling {music.compile_seconds:.1f} s,"
    f" {music.nfe} network passes"
  )
  return contents


def _title(config) -> str:
  return config.prompt.strip() or pathlib.Path(config.music_prompt or config.audio).name


def _report(config, melody, music, wave: np.ndarray, batch: int) -> dict[str, Any]:
  """What was asked for, what it cost, and what made it."""
  seconds = len(wave) / melody.sample_rate
  return {
    **report.asked(config),
    **(report.unheard(config, melody) if config.mode != "reconstruct" else {}),
    "batch": batch,
    "seconds": seconds,
    "sample_rate": melody.sample_rate,
    "nfe": music.nfe,
    "compile_seconds": music.compile_seconds,
    "generation_seconds": music.generation_seconds,
    # Over 1: faster than it plays. Of one piece; a batch makes all of its pieces in that time.
    "real_time_factor": seconds / music.generation_seconds,
    "loudness_lufs": audio_io.loudness(wave, melody.sample_rate),
    **report.made_by(config, melody),
  }


def main(config: ml_collections.ConfigDict) -> None:
  """The command."""
  sample(config)


if __name__ == "__main__":
  cli.run(main, page="sample")
