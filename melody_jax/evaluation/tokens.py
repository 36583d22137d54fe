"""Semantic tokens on held-out music: how many are used, how well the LM predicts them."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import ml_collections
import numpy as np

from melody_jax.evaluation.clips import datasets_of, in_batches, stack_clips, with_all
from melody_jax.evaluation.features import Encoders, encoded_windows
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.evaluation.language_model import row_cross_entropy
from melody_jax.metrics.tokens import token_use
from melody_jax.progress import print_progress

# Keys of a dataset's figures and the columns that they fill.
LM_COLUMNS = (
  ("lm_cross_entropy", "LM cross-entropy"),
  ("lm_cross_entropy_without_style", "LM without style"),
  ("per_cent_under_unigram", "% under unigram"),
)
COLUMNS = (
  ("n_tokens", "tokens"),
  ("used", "centres used"),
  ("entropy", "unigram entropy (nats)"),
  ("perplexity", "perplexity"),
  ("repeat_rate", "repeats"),
  *LM_COLUMNS,
)


def evaluate_tokens(
  windows: dict[str, tuple[np.ndarray, np.ndarray]],
  vocabulary: int,
  cross_entropy: Callable[[np.ndarray, np.ndarray], Any] | None,
  batch_size: int = 8,
  split: str = "validation",
) -> Finding:
  """Use of the vocabulary, and the LM's cross-entropy against the unigram entropy.

  Both numbers are about the same tokens: all semantic tokens of windows that do not overlap. The
  unigram entropy is the best that a predictor without context could reach if it knew the
  frequencies of exactly these tokens. The LM has never seen them.

  Args:
    windows: {dataset: (semantic tokens [N, T], style tokens [N, levels])}, integers.
    vocabulary: Number of possible semantic tokens.
    cross_entropy: Maps style [B, levels] and semantic [B, T] to two arrays [B]: the mean nats per
      token of each row, with its style tokens and without style. None leaves the LM out.
    batch_size: Rows per call of `cross_entropy`.
    split: Name of the split that the windows are of, for the text.

  Returns:
    The finding "tokens".
  """
  # The LM scores each window once; "all" joins scores and does not compute them again.
  sets = with_all(windows)
  scores = None
  if cross_entropy is not None:
    scores = with_all(
      {
        name: in_batches(cross_entropy, (style, semantic), batch_size)
        for name, (semantic, style) in windows.items()
      }
    )
  entries = {
    name: _entry(semantic, vocabulary, scores[name] if scores else None)
    for name, (semantic, _) in sets.items()
  }
  values: dict[str, Any] = {"vocabulary": vocabulary, "datasets": entries}
  last = entries[list(sets)[-1]]
  # At the top of the JSON stand the figures over everything, which the model card quotes.
  values |= {"used": last["used"], "unigram_entropy": last["entropy"]}
  text = f"{last['used']} of {vocabulary} centres occur in the {split} split."
  if scores is not None:
    values["per_cent_under_unigram"] = last["per_cent_under_unigram"]
    text += (
      f" The LM's cross-entropy is {number(last['lm_cross_entropy'])} nats per token, "
      f"{number(last['per_cent_under_unigram'])} % under the unigram entropy of the same tokens."
    )
  columns = COLUMNS if scores is not None else COLUMNS[: -len(LM_COLUMNS)]
  rows = [(name, *(entry[key] for key, _ in columns)) for name, entry in entries.items()]
  header = (split, *(title for _, title in columns))
  return Finding("tokens", values, text + "\n\n" + table(header, rows))


def _entry(
  semantic_NxT: np.ndarray, vocabulary: int, scores: tuple[np.ndarray, ...] | None
) -> dict[str, Any]:
  """Figures of one dataset; `scores` are the LM's two arrays [N], or None."""
  use = token_use(semantic_NxT, vocabulary)
  if scores is None:
    return dataclasses.asdict(use)
  # Windows have equal lengths, so the mean of row means is the mean over tokens.
  conditional, unconditional = (float(part.mean()) for part in scores)
  # Where one token is all that occurs there is nothing to predict, and no share of it.
  share = conditional / use.entropy if use.entropy else math.nan
  return dataclasses.asdict(use) | {
    "lm_cross_entropy": conditional,
    "lm_cross_entropy_without_style": unconditional,
    "per_cent_under_unigram": 100.0 * (1.0 - share),
  }


def tokens(config: ml_collections.ConfigDict) -> Finding:
  """Measures the use of the semantic vocabulary, and the LM against the unigram entropy.

  Args:
    config: configs/evaluate.py: bundle, data, split, window_seconds and batch_size.

  Returns:
    The finding "tokens", see `evaluate_tokens`.

  Raises:
    UserError: if the bundle has no LM, or no dataset has the split.
  """
  score, model = row_cross_entropy(config.bundle)
  encoders = Encoders(config.bundle, config.batch_size)
  windows = {}
  for name, dataset in datasets_of(config, config.split).items():
    print_progress(f"tokens: reading {name}")
    clips = encoded_windows(
      dataset, encoders, config.window_seconds, ("semantic_tokens", "style_tokens")
    )
    windows[name] = (stack_clips(clips, "semantic_tokens"), stack_clips(clips, "style_tokens"))
  return evaluate_tokens(windows, model.semantic_vocab, score, config.batch_size, config.split)
