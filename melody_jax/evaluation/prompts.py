"""Does the music obey its prompt? Generated clips, judged by MuLan and by a tagger.

Each judge scores every clip against every prompt; the rank of the right prompt is tested
against permuted prompts, all seeds of a prompt moving together. MuLan steered the generation,
so its verdict shows that the chain carries the style; the tagger had no part in it.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import ml_collections
import numpy as np

from melody_jax import audio_io
from melody_jax.config import listed
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import batches
from melody_jax.evaluation.features import Encoders
from melody_jax.evaluation.finding import Finding, table
from melody_jax.evaluation.musicnn import tagger as musicnn
from melody_jax.generation.melody import Melody
from melody_jax.generation.request import Request, Settings
from melody_jax.metrics.audio_checks import AudioChecks, check_audio
from melody_jax.metrics.retrieval import RankTest, rank_test, ranks_of_classes
from melody_jax.output_files import check_outputs, write_files
from melody_jax.places import buckets
from melody_jax.progress import Progress, print_progress


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
  """How much more than usual each clip shows the tags of each prompt.

  Some tags are likely in all music, so the log-odds of a tag are standardised over the given clips.
  The score of a prompt is the mean over all of its tags.

  Args:
    probabilities: {tagger: tag probabilities [clips, 50]}.
    tags: {tagger: names of its 50 tags}.
    prompts: Prompts with the tags that they expect.

  Returns:
    Scores, float64 [clips, prompts]; larger is better.

  Raises:
    UserError: if a prompt expects a tag that its tagger lacks, or expects no tag at all.
  """
  standard = {}
  for name, p in probabilities.items():
    # A sigmoid in float32 can be exactly 0 or 1, where the log-odds are infinite.
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
    # A mean: a prompt with many tags must not outweigh one with few.
    columns.append(np.mean([standard[n][:, list(tags[n]).index(t)] for n, t in wanted], axis=0))
  return np.stack(columns, axis=1)


def centred(scores_IxC: np.ndarray) -> np.ndarray:
  """Scores [items, classes] minus the mean of each class over the items.

  Without this, a prompt that lies near all music would win for every clip.
  """
  return scores_IxC - scores_IxC.mean(axis=0, keepdims=True)


def settings_of(sampler: ml_collections.ConfigDict) -> Settings:
  """How to sample, of a group of keys of configs/evaluate.py that are named as its fields."""
  # A config key keeps its type, so the config says 0 and 1 where the sampler has None.
  return Settings(
    **{
      **sampler,
      "top_k": sampler.top_k or None,
      "top_p": sampler.top_p if sampler.top_p < 1 else None,
    }
  )


def generate_all(
  generate: Callable[[list[str], list[int]], np.ndarray],
  prompts: Sequence[JudgedPrompt],
  seeds: Sequence[int],
  batch_size: int,
  progress: Progress,
) -> np.ndarray:
  """Generates a clip for every prompt and every seed.

  All batches have one size, the last one filled up by repetition, so that one program is compiled.

  Args:
    generate: Maps texts and seeds, both of length B, to audio [B, samples].
    prompts: Prompts to generate.
    seeds: Seeds, the same for every prompt.
    batch_size: Clips per call.
    progress: Function that gets one line per batch.

  Returns:
    Audio, float32 [prompts * seeds, samples]: all seeds of the first prompt, then the second ...
  """
  jobs = [(prompt.text, seed) for prompt in prompts for seed in seeds]
  clips: list[np.ndarray] = []
  for index, real in batches(len(jobs), batch_size):
    texts, chosen = zip(*(jobs[i] for i in index))
    clips.extend(np.asarray(generate(list(texts), list(chosen)))[:real])
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
  """Checks the sound of the clips, and tests how every judge ranks the prompts.

  Args:
    clips_IxS: Clips [prompts * seeds, samples] in the order of `generate_all`.
    sample_rate: Sample rate in Hz.
    prompts: Prompts that the clips were made from.
    seeds: Seeds that every prompt was generated with.
    scores: {judge: scores [clips, prompts]}, larger is better.
    permutations: Number of permutations in the test.
    seed: Seed of the permutations.

  Returns:
    The finding "prompts".
  """
  checks = [check_audio(clip, sample_rate) for clip in clips_IxS]
  # Prompt-major, as `generate_all` orders them.
  labels = np.repeat(np.arange(len(prompts)), len(seeds))
  # Each judge gets the same permutations, so that their p-values can be compared.
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
  """Adds the levels of the clips before their loudness was normalised.

  Args:
    finding: Result of `judge`.
    raw_IxS: Clips [prompts * seeds, samples] as the decoder made them.
  """
  # 1e-12 is -120 dB: silence gets a finite level.
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
  """Generates clips, checks their sound, and ranks the prompts by MuLan and by musicnn.

  Args:
    config: configs/evaluate.py: bundle, batch_size, seed and prompts.

  Returns:
    The finding "prompts", see `judge` and `with_raw_levels`.

  Raises:
    UserError: if the bundle lacks a model, or a tag does not exist.
  """
  c = config.prompts
  table = [
    JudgedPrompt(text, {"MTT": tuple(listed(mtt)), "MSD": tuple(listed(msd))})
    for text, mtt, msd in c.table
  ]
  # The tagger comes first: where it cannot be had, that is known before the long part.
  taggers, absent = _taggers() if c.musicnn else ({}, "")
  # The public sampler itself, so that what is judged is what a user gets.
  melody = Melody.load(config.bundle)
  settings = settings_of(c.sampling)

  def generate(texts: list[str], seeds: list[int]) -> np.ndarray:
    requests = [Request(t, seconds=c.seconds, seed=s) for t, s in zip(texts, seeds, strict=True)]
    return np.stack([music.audio for music in melody.generate(requests, settings)])

  raw = generate_all(generate, table, c.seeds, config.batch_size, print_progress)
  # Judged as `melody_jax.sample` writes it.
  clips = np.stack([audio_io.normalise_loudness(clip, melody.sample_rate) for clip in raw])
  encoders = Encoders(config.bundle, config.batch_size)
  # Text as it is, without the prior: the judge must not be the map that steered the music.
  cosine = encoders.embed_music(clips) @ encoders.embed_text([p.text for p in table]).T
  scores = {"MuLan": cosine, "MuLan, centred": centred(cosine)}
  if taggers:
    probabilities = {name: tagger(clips, melody.sample_rate)[0] for name, tagger in taggers.items()}
    names = {name: tagger.tags for name, tagger in taggers.items()}
    scores["musicnn"] = tag_scores(probabilities, names, table)
  if c.keep_audio:
    _keep(clips, c.seeds, buckets.path_of(config.out) / "clips", melody.sample_rate)
  finding = judge(clips, melody.sample_rate, table, c.seeds, scores, c.permutations, config.seed)
  if absent:
    finding = dataclasses.replace(finding, markdown=f"{finding.markdown}\n\n{absent}")
  return with_raw_levels(finding, raw)


def _keep(clips_IxS: np.ndarray, seeds: Sequence[int], folder: Any, rate: int) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  names = [
    folder / f"{i // len(seeds):02d}-{seeds[i % len(seeds)]}.flac" for i in range(len(clips_IxS))
  ]
  check_outputs(names)
  for name, clip in zip(names, clips_IxS, strict=True):
    write_files({name: audio_io.encode(clip, ".flac", rate)})


def _taggers() -> tuple[dict[str, Any], str]:
  """The taggers; without a network none, and a sentence that says so for the finding."""
  try:
    return {model: musicnn.load(model) for model in musicnn.MODELS}, ""
  except UserError as error:
    absent = f"The independent tagger did not judge: {error}."
    print_progress(f"prompts: {absent}")
    return {}, absent
