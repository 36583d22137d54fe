"""Do text and music meet in the joint space, and what do style tokens keep of it?"""

from collections.abc import Callable
import dataclasses
from typing import Any

import ml_collections
import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluation.clips import Clip, datasets_of, read_windows, stack_clips
from melody_jax.evaluation.features import Encoders
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.metrics.retrieval import Retrieval, recall_at_k
from melody_jax.models.quantizer import rvq_report
from melody_jax.progress import print_progress


def relevance(queries: list[str], clips: list[Clip]) -> np.ndarray:
  """Which clips are right for which text: bool [queries, clips].

  A clip is right if the text is one of its captions.
  """
  # Many queries are equal (tags make captions alike), so each text is looked up once.
  captions = [set(clip.captions) for clip in clips]
  known = {query: np.array([query in c for c in captions]) for query in set(queries)}
  return np.stack([known[query] for query in queries])


def draw_queries(clips: list[Clip], seed: int, draw: int) -> list[str]:
  """Draws one caption of every clip.

  Args:
    clips: Clips with captions.
    seed: Seed of the evaluation.
    draw: Number of this draw; each gives other captions.

  Returns:
    One caption per clip, in their order.

  Raises:
    UserError: if a clip has no caption.
  """
  # A generator per draw: draw 3 is the same whether or not draws 0 to 2 were made.
  rng = np.random.default_rng((seed, draw))
  queries = []
  for clip in clips:
    if not clip.captions:
      raise UserError(
        f"record {clip.record['id']} has no caption: retrieval needs captioned datasets"
      )
    queries.append(clip.captions[int(rng.integers(len(clip.captions)))])
  return queries


def score_retrieval(
  embed_text: Callable[[list[str]], np.ndarray],
  music_CxE: np.ndarray,
  clips: list[Clip],
  k: int,
  draws: int,
  seed: int,
) -> Retrieval:
  """Mean retrieval scores over several draws of one caption per clip; see `recall_at_k`.

  Args:
    embed_text: Maps N texts to unit vectors [N, E].
    music_CxE: Unit vectors of the clips.
    clips: The clips, in the same order.
    k: Number of candidates that are looked at.
    draws: Number of draws.
    seed: Seed of the draws.
  """
  scores = []
  for draw in range(draws):
    queries = draw_queries(clips, seed, draw)
    # The text tower is the slow part: each distinct text passes through it once.
    distinct = sorted(set(queries))
    text = dict(zip(distinct, embed_text(distinct), strict=True))
    text_QxE = np.stack([text[q] for q in queries])
    scores.append(recall_at_k(text_QxE @ music_CxE.T, relevance(queries, clips), k))
  mean = {
    f.name: np.mean([getattr(s, f.name) for s in scores]) for f in dataclasses.fields(Retrieval)
  }
  # Sizes are equal in all draws; their mean is a float and has to become an int again.
  whole = ("k", "n_queries", "n_candidates")
  typed: dict[str, Any] = {k: int(v) if k in whole else float(v) for k, v in mean.items()}
  return Retrieval(**typed)


def evaluate_mulan(
  embed_text: Callable[[list[str]], np.ndarray],
  music: dict[str, np.ndarray],
  clips: dict[str, list[Clip]],
  rvq: dict[str, dict[str, Any]],
  k: int = 10,
  draws: int = 5,
  seed: int = 0,
  split: str = "validation",
) -> Finding:
  """Recall@k among the held-out clips of each dataset, and how well the RVQ works by level.

  Args:
    embed_text: Maps N texts to unit vectors [N, E].
    music: {dataset: unit vectors [C, E] of its clips}.
    clips: {dataset: its clips}.
    rvq: {dataset: result of `rvq_report` on its embeddings}; empty without codebooks.
    k: Number of candidates that are looked at; of fewer than 2 k clips half are.
    draws: Captions drawn per clip; more of them make the mean steadier.
    seed: Seed of these draws.
    split: Name of the split that the clips are of, for the text.

  Returns:
    The finding "mulan".
  """
  values: dict[str, Any] = {"k": k, "retrieval": {}, "rvq": rvq}
  fewer = []
  for name in music:
    # Among all clips every one is found, whatever the model does: half of them leave a question.
    k_here = min(k, max(1, len(clips[name]) // 2))
    if k_here < k:
      fewer.append(f"{name} has {len(clips[name])} clips: its k is {k_here}, not {k}.")
    scores = score_retrieval(embed_text, music[name], clips[name], k_here, draws, seed)
    values["retrieval"][name] = dataclasses.asdict(scores) | {
      "over_chance": scores.over_chance,
      "tracks": len({clip.track for clip in clips[name]}),
      "distinct_captions": len({c for clip in clips[name] for c in clip.captions}),
    }
  markdown = _retrieval_markdown(values["retrieval"], k, fewer, split)
  if rvq:
    markdown += "\n\n" + _rvq_markdown(rvq)
  return Finding("mulan", values, markdown)


def _retrieval_markdown(
  retrieval: dict[str, dict[str, Any]], k: int, fewer: list[str], split: str
) -> str:
  columns = {
    "n_candidates": "clips",
    "tracks": "tracks",
    "recall": f"recall@{k}",
    "recall_chance": "chance",
    "over_chance": "times chance",
    "recall_best": "best possible",
    "hit_rate": f"hit@{k}",
    "hit_rate_chance": "chance of a hit",
  }
  rows = [(name, *(scores[key] for key in columns)) for name, scores in retrieval.items()]
  text = (
    "Text-to-music retrieval: the query is one of a clip's captions; every clip that bears that "
    f"caption is right; recall@{k} is the share of the right clips among the first {k}, whose "
    f"chance level is {k} / clips however many share it. hit@{k} asks for any one right clip, "
    "with its own chance level."
  )
  return "\n\n".join((" ".join((text, *fewer)), table((split, *columns.values()), rows)))


def _rvq_markdown(rvq: dict[str, dict[str, Any]]) -> str:
  header = ["RVQ level"]
  for name in rvq:
    header += [f"{name}: centres used", f"{name}: cosine up to here"]
  levels = len(next(iter(rvq.values()))["utilisation"])
  rows = []
  # Every level: the first ones carry most of an embedding, and a mean would hide where it ends.
  for level in range(levels):
    row: list[Any] = [level + 1]
    for report in rvq.values():
      row += [f"{100 * report['utilisation'][level]:.0f} %", report["reconstruction_cosine"][level]]
    rows.append(tuple(row))
  sizes = ", ".join(f"{name} {report['embeddings']}" for name, report in rvq.items())
  final = ", ".join(f"{number(r['reconstruction_cosine'][-1])} ({name})" for name, r in rvq.items())
  return (
    f"RVQ on held-out clips (embeddings: {sizes}; no more centres can be used than that): "
    f"reconstruction cosine {final}.\n\n" + table(tuple(header), rows)
  )


def mulan(config: ml_collections.ConfigDict) -> Finding:
  """Measures text-to-music retrieval per dataset, and the RVQ level by level.

  Args:
    config: configs/evaluate.py: bundle, data, split, window_seconds, batch_size, seed and mulan.

  Returns:
    The finding "mulan", see `evaluate_mulan`.

  Raises:
    UserError: if the bundle has no MuLan, or a clip has no caption.
  """
  encoders = Encoders(config.bundle, config.batch_size)
  clips, music, rvq = {}, {}, {}
  for name, dataset in datasets_of(config, config.split).items():
    print_progress(f"mulan: embedding clips of {name}")
    clips[name] = read_windows(
      dataset, config.window_seconds, ("audio",), config.mulan.clips, config.seed
    )
    music[name] = encoders.embed_music(stack_clips(clips[name], "audio"))
    rvq[name] = rvq_report(encoders.style.params["rvq"]["codebooks"], music[name])
  return evaluate_mulan(
    encoders.embed_text, music, clips, rvq, config.mulan.k, config.mulan.draws, config.seed,
    config.split,
  )  # fmt: skip
