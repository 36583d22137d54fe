"""Do the generated clips sound like what their prompts say? By a tagger, and by their onsets."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluation.musicnn.tagger import Tagger, load
from melody_jax.evaluation.systems.compare import Clips
from melody_jax.evaluation.systems.prompt_words import FAMILIES, asked_tags, family_of, tempo_of
from melody_jax.metrics.prompt_agreement import family_agreement, tag_agreement, tempo_agreement
from melody_jax.progress import print_progress


def load_tagger(wanted: bool, prompts: Mapping[Any, str]) -> tuple[Tagger | None, str]:
  """musicnn by MagnaTagATune where it has something to judge; else None, and why where it is odd.

  Args:
    wanted: config.audio.tags.
    prompts: {clip: its text}; without any there is nothing to agree with.
  """
  if not wanted or not prompts:
    return None, ""
  try:
    return load("MTT"), ""
  except UserError as error:
    line = f"Tags were not judged: {error}."
    print_progress(f"audio: {line}")
    return None, line


def obedience(
  clips: Clips, prompts: Mapping[str, str], tags: Sequence[str], seed: int
) -> dict[str, Any] | None:
  """Agreement of clips with the words of their prompts.

  Args:
    clips: Generated clips, with a tagger's posteriors where there was one.
    prompts: {name of a clip: its text}.
    tags: Names of the tagger's tags; none without a tagger.
    seed: Seed of the permutations.

  Returns:
    "family" and "tags" by the tagger and "tempo" by onsets, each None where the prompts do not ask;
    None where no clip has a prompt.
  """
  own = [clip for clip in clips if clip.name in prompts]
  if not own:
    return None
  found: dict[str, Any] = {"family": None, "tags": None, "tempo": None}
  if tags:
    found["family"] = _family(own, prompts, tags, np.random.default_rng(seed))
    texts = [prompts[clip.name] for clip in own]
    asked = np.array([asked_tags(text, tags) for text in texts])
    posteriors = np.stack([clip.tags_K for clip in own])
    found["tags"] = tag_agreement(posteriors, tags, asked, texts, np.random.default_rng(seed))
  paced = [clip for clip in own if tempo_of(prompts[clip.name])]
  if paced:
    texts = [prompts[clip.name] for clip in paced]
    rates = np.array([clip.numbers["onset_rate"] for clip in paced])
    is_fast = np.array([tempo_of(text) == "fast" for text in texts])
    found["tempo"] = tempo_agreement(rates, is_fast, texts, np.random.default_rng(seed))
  return {key: value and dataclasses.asdict(value) for key, value in found.items()}


def _family(clips: Clips, prompts: Mapping[str, str], tags: Sequence[str], rng) -> Any:
  named = [clip for clip in clips if family_of(prompts[clip.name])]
  if len({family_of(prompts[clip.name]) for clip in named}) < 2:
    return None  # of one family there is nothing to tell apart
  families = list(FAMILIES)
  columns = [list(tags).index(name) for name in families]
  texts = [prompts[clip.name] for clip in named]
  posteriors = np.stack([clip.tags_K[columns] for clip in named])
  return family_agreement(posteriors, families, [family_of(t) for t in texts], texts, rng)


def rows(found: Mapping[str, Any] | None) -> list[tuple[str, float | None, float | None]]:
  """Rows (measure, value, chance) of a report."""
  if not found:
    return []
  out: list[tuple[str, float | None, float | None]] = []
  judge, chance = "by musicnn-MTT", "(right: chance)"
  if family := found["family"]:
    title = f"right family of {len(FAMILIES)} {judge} {chance}, p {family['p_value']:.2g}"
    out.append((title, family["right"], family["chance"]))
  if tags := found["tags"]:
    title = f"tags of the prompt {judge}, area {chance}, p {tags['p_value']:.2g}"
    out.append((title, tags["auc"], 0.5))
  if tempo := found["tempo"]:
    title = f"more onsets where the prompt says fast, area {chance}, p {tempo['p_value']:.2g}"
    out.append((title, tempo["auc"], 0.5))
    out.append(("onsets a second, fast prompts (right: slow ones)", tempo["fast"], tempo["slow"]))
  return out
