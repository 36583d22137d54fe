"""Does the music obey its prompt? Generated clips, judged by MuLan and by a tagger.

Each judge scores every clip against every prompt; the rank of the right prompt is tested
against permuted prompts, all seeds of a prompt moving together. MuLan steered the generation,
so its verdict shows that the chain carries the style; the tagger had no part in it.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any

import ml_collections
import numpy as np

from melody_jax import audio_io
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import say
from melody_jax.evaluation.features import Encoders
from melody_jax.evaluation.finding import Finding, table
from melody_jax.evaluation.musicnn import tagger as musicnn
from melody_jax.generation import programs
from melody_jax.generation.melody import Melody
from melody_jax.generation.request import Request, Settings
from melody_jax.metrics.audio_checks import AudioChecks, check_audio
from melody_jax.metrics.retrieval import RankTest, rank_test, ranks_of_classes


@dataclasses.dataclass(frozen=True)
class JudgedPrompt:
  """A text and the tags that music obeying it should raise, by tagger."""

  text: str
  tags: dict[str, tuple[str, ...]]


def tag_scores(
  probabilities: dict[str, np.ndarray],
  tags: dict[str, Sequence[str]],
  prompts: Sequence[JudgedPrompt],
) -> np.ndarray:
  """How much more than usual each clip shows each prompt's tags: [clips, prompts].

  A tag's log-odds are standardised over the clips at hand, because some tags are likely
  everywhere; a prompt's score is the mean over its tags of all taggers.

  Args:
    probabilities: {tagger: [clips, 50]}.
    tags: {tagger: names of its 50 tags}.
    prompts: with the tags they expect.

  Raises:
    UserError: a prompt expects a tag that its tagger lacks, or none at all.
  """
  standard = {}
  for name, p in probabilities.items():
    p = np.clip(np.asarray(p, np.float64), 1e-6, 1 - 1e-6)
    log_odds = np.log(p) - np.log1p(-p)
    standard[name] = (log_odds - log_odds.mean(axis=0)) / (log_odds.std(axis=0) + 1e-9)
  columns = []
  for prompt in prompts:
    wanted = [(name, tag) for name in standard for tag in prompt.tags.get(name, ())]
    unknown = [tag for name, tag in wanted if tag not in tags[name]]
    if unknown or not wanted:
      named = ", ".join(unknown) or "none"
      raise UserError(f"prompt {prompt.text!r} (config.prompts.table): no such tag as {named}")
    columns.append(np.mean([standard[n][:, list(tags[n]).index(t)] for n, t in wanted], axis=0))
  return np.stack(columns, axis=1)


def centred(scores_IxC: np.ndarray) -> np.ndarray:
  """Scores less each class's mean over the items, so that no class is everybody's favourite."""
  return scores_IxC - scores_IxC.mean(axis=0, keepdims=True)


def generate_all(
  generate: Callable[[list[str], list[int]], np.ndarray],
  prompts: Sequence[JudgedPrompt],
  seeds: Sequence[int],
  batch_size: int,
  progress: Callable[[str], None],
) -> np.ndarray:
  """Clips of every prompt and seed, prompt-major: float32 [prompts * seeds, samples].

  Batches are of one size (the last padded by repetition): one compiled program.
  """
  jobs = [(prompt.text, seed) for prompt in prompts for seed in seeds]
  clips: list[np.ndarray] = []
  for first in range(0, len(jobs), batch_size):
    batch = jobs[first : first + batch_size]
    full = batch + [batch[-1]] * (batch_size - len(batch))
    audio = np.asarray(generate([text for text, _ in full], [seed for _, seed in full]))
    clips.extend(audio[: len(batch)])
    progress(f"prompts: {len(clips)} of {len(jobs)} clips")
  return np.stack(clips)


def judge(
  clips_IxS: np.ndarray,
  sample_rate: int,
  prompts: Sequence[JudgedPrompt],
  seeds: Sequence[int],
  scores: dict[str, np.ndarray],
  permutations: int,
  seed: int,
) -> Finding:
  """Checks the clips and tests every judge's ranking.

  Args:
    clips_IxS: prompt-major, see `generate_all`.
    sample_rate: Hz.
    prompts: what they were made of.
    seeds: of every prompt.
    scores: {judge: [clips, prompts]}, larger is better.
    permutations: of the test.
    seed: of those permutations.
  """
  checks = [check_audio(clip, sample_rate) for clip in clips_IxS]
  labels = np.repeat(np.arange(len(prompts)), len(seeds))
  tests = {
    name: rank_test(s, labels, np.random.default_rng(seed), n_permutations=permutations)
    for name, s in scores.items()
  }
  ranks = {
    name: ranks_of_classes(s)[np.arange(len(labels)), labels].reshape(len(prompts), len(seeds))
    for name, s in scores.items()
  }
  sound = {
    kind: sum(getattr(c, kind) for c in checks) for kind in ("silent", "clipped", "constant")
  }
  sound |= {
    "not_finite": sum(not c.finite for c in checks),
    "ok": sum(c.ok for c in checks),
    "clips": len(checks),
  }
  values = {
    "sound": sound,
    "seeds": list(seeds),
    "tests": {name: dataclasses.asdict(test) for name, test in tests.items()},
    "prompts": [
      {
        "prompt": p.text,
        "expected_tags": p.tags,
        "ranks": {name: r[i].tolist() for name, r in ranks.items()},
        "checks": [dataclasses.asdict(c) for c in checks[i * len(seeds) : (i + 1) * len(seeds)]],
      }
      for i, p in enumerate(prompts)
    ],
  }
  return Finding("prompts", values, _markdown(prompts, seeds, checks, ranks, tests, sound))


def with_raw_levels(finding: Finding, raw_IxS: np.ndarray) -> Finding:
  """Adds what the models gave before their loudness was normalised."""
  rms_db = 10.0 * np.log10(np.mean(np.square(raw_IxS), axis=1) + 1e-12)
  over = int(np.sum(np.max(np.abs(raw_IxS), axis=1) > 1.0))
  low, middle, high = np.percentile(rms_db, (5, 50, 95))
  return dataclasses.replace(
    finding,
    values=finding.values | {"raw_rms_db": rms_db.tolist(), "raw_over_full_scale": over},
    markdown=finding.markdown
    + "\n\nClips are judged as `melody_jax.sample` writes them, normalised. Raw, their levels are "
    f"{middle:.1f} dB in the median ({low:.1f} to {high:.1f} from the 5th to the 95th percentile), "
    f"and {over} of {len(raw_IxS)} pass full scale somewhere.",
  )


def _markdown(
  prompts: Sequence[JudgedPrompt],
  seeds: Sequence[int],
  checks: list[AudioChecks],
  ranks: dict[str, np.ndarray],
  tests: dict[str, RankTest],
  sound: dict[str, Any],
) -> str:
  n = len(prompts)
  lines = [
    f"{n} prompts, {len(seeds)} seeds each: {sound['ok']} of {sound['clips']} clips are sound "
    f"(silent {sound['silent']}, clipped {sound['clipped']}, constant {sound['constant']}, "
    f"not finite {sound['not_finite']}). Each judge ranks the {n} prompts for every clip; the "
    "p-value is that of the mean rank of the right prompt under permuted prompts, seeds of "
    "a prompt kept together."
  ]
  rows: list[tuple[Any, ...]] = [
    (
      name,
      t.mean_rank,
      t.mean_rank_chance,
      f"{100 * t.margin:.0f} %",
      t.mrr,
      t.mrr_chance,
      *(f"{100 * share:.0f} % ({100 * chance:.0f} %)" for share, chance in t.top.values()),
      f"{t.p_value:.4f}",
    )
    for name, t in tests.items()
  ]
  header = (
    "judge",
    "mean rank",
    "chance",
    "margin",
    "MRR",
    "chance ",
    *(f"top {k} (chance)" for k in next(iter(tests.values())).top),
    "p-value",
  )
  lines += [table(header, rows)]
  per_prompt = []
  for i, prompt in enumerate(prompts):
    own = checks[i * len(seeds) : (i + 1) * len(seeds)]
    level = np.mean([c.rms_db for c in own])
    shown = [", ".join(f"{rank:g}" for rank in r[i]) for r in ranks.values()]
    per_prompt.append((prompt.text, *shown, f"{level:.1f}", all(c.ok for c in own)))
  header = ("prompt", *(f"rank by {name}" for name in ranks), "level (dB)", "sound")
  lines += [table(header, per_prompt)]
  return "\n\n".join(lines)


def prompts(config: ml_collections.ConfigDict) -> Finding:
  """Generated clips: soundness, and the rank of the right prompt by MuLan and by musicnn."""
  c = config.prompts
  table = [JudgedPrompt(text, {"MTT": _tags(mtt), "MSD": _tags(msd)}) for text, mtt, msd in c.table]
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

  raw = generate_all(generate, table, c.seeds, config.batch_size, say)
  # Judged as `melody_jax.sample` writes it.
  clips = np.stack([audio_io.normalise_loudness(clip, melody.sample_rate) for clip in raw])
  encoders = Encoders(config.bundle, config.batch_size)
  cosine = encoders.embed_music(clips) @ encoders.embed_text([p.text for p in table]).T
  scores = {"MuLan": cosine, "MuLan, centred": centred(cosine)}
  if taggers:
    probabilities = {name: tagger(clips, melody.sample_rate)[0] for name, tagger in taggers.items()}
    names = {name: tagger.tags for name, tagger in taggers.items()}
    scores["musicnn"] = tag_scores(probabilities, names, table)
  if c.keep_audio:
    folder = pathlib.Path(config.out) / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(clips):
      stem = f"{i // len(c.seeds):02d}-{c.seeds[i % len(c.seeds)]}"
      (folder / f"{stem}.flac").write_bytes(audio_io.encode(clip, ".flac", melody.sample_rate))
  finding = judge(clips, melody.sample_rate, table, c.seeds, scores, c.permutations, config.seed)
  return with_raw_levels(finding, raw)


def _tags(line: str) -> tuple[str, ...]:
  return tuple(tag.strip() for tag in line.split(",") if tag.strip())


def _taggers() -> dict[str, Any]:
  return {model: musicnn.load(model) for model in musicnn.MODELS}
