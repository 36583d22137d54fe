"""Measures a bundle of trained models: what the model card states.

    python -m melody_jax.evaluate --config=configs/evaluate.py:WHAT \
        --config.bundle=checkpoints/nano --config.data=recorded=DIR,rendered=DIR

WHAT is codec, tokens, mulan, dpd, prompts or all. Each writes WHAT.json and WHAT.md under
`config.out` and prints its table.
"""

from collections.abc import Callable
import pathlib
import sys
import time
from typing import Any

import ml_collections
import numpy as np

from melody_jax import cli
from melody_jax.array_dataset import ArrayDataset
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import named_roots, read_windows, stack
from melody_jax.evaluation.report import Finding, write


def _say(message: str) -> None:
  print(message, file=sys.stderr, flush=True)


def _datasets(config: ml_collections.ConfigDict, split: str) -> dict[str, ArrayDataset]:
  """The datasets of config.data that have `split`.

  Raises:
    UserError: if none has.
  """
  roots = named_roots(config.data)
  found = {
    name: ArrayDataset(root, split) for name, root in roots.items() if (root / split).is_dir()
  }
  if not found:
    raise UserError(f"none of {', '.join(map(str, roots.values()))} has a split {split!r}")
  return found


def codec(config: ml_collections.ConfigDict) -> Finding:
  """Whole tracks of unseen packages through the codec alone."""
  from melody_jax.encoders import Codec
  from melody_jax.evaluation.codec import evaluate_codec

  model = Codec.load(config.bundle)
  datasets = _datasets(config, config.codec.split)
  if len(datasets) > 1 and "recorded" in datasets:
    datasets = {"recorded": datasets["recorded"]}  # the rendered one holds out styles, not packages
  if len(datasets) > 1:
    raise UserError(
      f"several datasets have a split {config.codec.split!r} and none is called recorded: "
      "name one in config.data"
    )
  (dataset,) = datasets.values()
  return evaluate_codec(
    lambda audio: model.decode(model.encode(audio)),
    dataset,
    model.config.hop_length,
    config.sample_rate,
    config.codec.chunk_seconds,
    config.codec.context_seconds,
    _say,
  )


def tokens(config: ml_collections.ConfigDict) -> Finding:
  """Use of the semantic vocabulary, and the LM against the unigram entropy."""
  from melody_jax.evaluation.features import Encoders, encoded_windows
  from melody_jax.evaluation.language_model import row_cross_entropy
  from melody_jax.evaluation.tokens import evaluate_tokens

  score, model = row_cross_entropy(config.bundle)
  encoders = Encoders(config.bundle, config.batch_size)
  windows = {}
  for name, dataset in _datasets(config, config.split).items():
    _say(f"tokens: reading {name}")
    clips = encoded_windows(
      dataset, encoders, config.window_seconds, ("semantic_tokens", "style_tokens")
    )
    windows[name] = (stack(clips, "semantic_tokens"), stack(clips, "style_tokens"))
  return evaluate_tokens(windows, model.semantic_vocab, score, config.batch_size)


def mulan(config: ml_collections.ConfigDict) -> Finding:
  """Text-to-music retrieval per dataset, and the RVQ by level."""
  from melody_jax.evaluation.features import Encoders
  from melody_jax.evaluation.mulan import evaluate_mulan
  from melody_jax.models.quantizer import rvq_report

  encoders = Encoders(config.bundle, config.batch_size)
  clips, music, rvq = {}, {}, {}
  for name, dataset in _datasets(config, config.split).items():
    _say(f"mulan: embedding clips of {name}")
    clips[name] = read_windows(
      dataset, config.window_seconds, ("audio",), config.mulan.clips, config.seed
    )
    music[name] = encoders.embed_music(stack(clips[name], "audio"))
    rvq[name] = rvq_report(encoders.style.params["rvq"]["codebooks"], music[name])
  return evaluate_mulan(
    encoders.embed_text, music, clips, rvq, config.mulan.k, config.mulan.draws, config.seed
  )


def dpd(config: ml_collections.ConfigDict) -> Finding:
  """Velocity error of the DPD against predictors without a network, and with wrong tokens."""
  from melody_jax.evaluation.denoiser import evaluate_denoiser, load_denoiser
  from melody_jax.evaluation.features import Encoders, encoded_windows

  velocity, chunks = load_denoiser(config.bundle)
  encoders = Encoders(config.bundle, config.batch_size)
  windows = {}
  for name, dataset in _datasets(config, config.split).items():
    _say(f"dpd: reading {name}")
    clips = encoded_windows(
      dataset,
      encoders,
      config.window_seconds,
      ("latents", "semantic_tokens"),
      config.dpd.windows,
      config.seed,
    )
    tracks = np.unique([clip.track for clip in clips], return_inverse=True)[1]
    windows[name] = (stack(clips, "latents"), stack(clips, "semantic_tokens"), tracks)
  return evaluate_denoiser(
    velocity, windows, chunks, config.dpd.draws, config.batch_size, config.seed, _say
  )


def prompts(config: ml_collections.ConfigDict) -> Finding:
  """Generated clips: soundness, and the rank of the right prompt by MuLan and by musicnn."""
  from melody_jax import audio as audio_io
  from melody_jax.evaluation import prompts as judging
  from melody_jax.evaluation.features import Encoders
  from melody_jax.generation import programs
  from melody_jax.generation.melody import Melody
  from melody_jax.generation.request import Request, Settings

  c = config.prompts
  table = [
    judging.Prompt(text, {"MTT": _tags(mtt), "MSD": _tags(msd)}) for text, mtt, msd in c.table
  ]
  # The tagger comes first: where it cannot be had, that is known before the long part.
  taggers = _taggers() if c.musicnn else {}
  programs.use_compilation_cache()
  melody = Melody.load(config.bundle)
  settings = Settings(
    **{
      **c.sampling,
      "top_k": c.sampling.top_k or None,
      "top_p": c.sampling.top_p if c.sampling.top_p < 1 else None,
    }
  )

  def generate(texts: list[str], seeds: list[int]) -> np.ndarray:
    requests = [Request(t, seconds=c.seconds, seed=s) for t, s in zip(texts, seeds, strict=True)]
    return np.stack([music.audio for music in melody.generate(requests, settings)])

  raw = judging.generate_all(generate, table, c.seeds, config.batch_size, _say)
  # Judged as `melody_jax.sample` writes it.
  clips = np.stack([audio_io.normalise_loudness(clip, melody.sample_rate) for clip in raw])
  encoders = Encoders(config.bundle, config.batch_size)
  cosine = encoders.embed_music(clips) @ encoders.embed_text([p.text for p in table]).T
  scores = {"MuLan": cosine, "MuLan, centred": judging.centred(cosine)}
  if taggers:
    probabilities = {name: tagger(clips, melody.sample_rate)[0] for name, tagger in taggers.items()}
    names = {name: tagger.tags for name, tagger in taggers.items()}
    scores["musicnn"] = judging.tag_scores(probabilities, names, table)
  if c.keep_audio:
    folder = pathlib.Path(config.out) / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(clips):
      stem = f"{i // len(c.seeds):02d}-{c.seeds[i % len(c.seeds)]}"
      (folder / f"{stem}.flac").write_bytes(audio_io.encode(clip, ".flac", melody.sample_rate))
  finding = judging.judge(
    clips, melody.sample_rate, table, c.seeds, scores, c.permutations, config.seed
  )
  return judging.with_raw_levels(finding, raw)


def _tags(line: str) -> tuple[str, ...]:
  return tuple(tag.strip() for tag in line.split(",") if tag.strip())


def _taggers() -> dict[str, Any]:
  from melody_jax.metrics import musicnn

  return {model: musicnn.load(model) for model in musicnn.MODELS}


EVALUATIONS: dict[str, Callable[[ml_collections.ConfigDict], Finding]] = {
  "codec": codec,
  "tokens": tokens,
  "mulan": mulan,
  "dpd": dpd,
  "prompts": prompts,
}


def evaluate(config: ml_collections.ConfigDict) -> None:
  """Runs the evaluation that `config.what` names, or all of them.

  Raises:
    UserError: for bad input. With "all", the others still run first.
  """
  from melody_jax import bundle
  from melody_jax.generation import report as sample_report

  if config.what != "all" and config.what not in EVALUATIONS:
    raise UserError(f"no evaluation {config.what!r}: choose {', '.join(EVALUATIONS)} or all")
  if not pathlib.Path(config.bundle).is_dir():
    raise UserError(f"no bundle directory {config.bundle!r} (config.bundle)")
  failures = []
  for what in EVALUATIONS if config.what == "all" else (config.what,):
    began = time.monotonic()
    try:
      finding = EVALUATIONS[what](config)
    except UserError as error:
      if config.what != "all":
        raise
      failures.append(f"{what}: {error}")
      _say(failures[-1])
      continue
    context = {
      "bundle": config.bundle,
      "bundle_sha256": bundle.digest(config.bundle),
      "data": config.data,
      "split": config.codec.split if what == "codec" else config.split,
      "settings": config[what].to_dict() if what in config else {},
      "seed": config.seed,
      "seconds": round(time.monotonic() - began, 1),
      "device": sample_report.device_name(),
      "versions": sample_report.versions(),
    }
    paths = write(finding, config.out, context)
    print(f"\n{finding.markdown}\n\n{', '.join(map(str, paths))}", flush=True)
  if failures:
    raise UserError("; ".join(failures))


if __name__ == "__main__":
  cli.run(evaluate)
