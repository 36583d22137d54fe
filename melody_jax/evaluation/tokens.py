"""Semantic tokens on held-out music: how many are used, how well the LM predicts them."""

from collections.abc import Callable
import dataclasses
from typing import Any

import ml_collections
import numpy as np

from melody_jax.evaluation.clips import datasets_of, in_batches, stack_clips
from melody_jax.evaluation.features import Encoders, encoded_windows
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.evaluation.language_model import row_cross_entropy
from melody_jax.metrics.tokens import token_use
from melody_jax.progress import print_progress


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
  everything = tuple(np.concatenate([w[i] for w in windows.values()]) for i in (0, 1))
  # "all" comes last and is left out where it would repeat the only dataset.
  sets = {**windows, "all": everything} if len(windows) > 1 else windows
  values: dict[str, Any] = {"vocabulary": vocabulary, "datasets": {}}
  rows = []
  scores = {}
  for name, (semantic, style) in windows.items():
    if cross_entropy is not None:
      scores[name] = in_batches(cross_entropy, (style, semantic), batch_size)
  if cross_entropy is not None and len(windows) > 1:
    scores["all"] = tuple(np.concatenate([scores[n][i] for n in windows]) for i in (0, 1))
  for name, (semantic, _) in sets.items():
    use = token_use(semantic, vocabulary)
    entry = dataclasses.asdict(use)
    row = [name, use.n_tokens, use.used, use.entropy, use.perplexity, use.repeat_rate]
    if cross_entropy is not None:
      # Windows have equal lengths, so the mean of row means is the mean over tokens.
      conditional, unconditional = (float(part.mean()) for part in scores[name])
      under = 100.0 * (1.0 - conditional / use.entropy)
      entry |= {
        "lm_cross_entropy": conditional,
        "lm_cross_entropy_without_style": unconditional,
        "per_cent_under_unigram": under,
      }
      row += [conditional, unconditional, under]
    values["datasets"][name] = entry
    rows.append(tuple(row))
  last = values["datasets"][list(sets)[-1]]
  # At the top of the JSON stand the figures over everything, which the model card quotes.
  values |= {"used": last["used"], "unigram_entropy": last["entropy"]}
  header = [
    split,
    "tokens",
    "centres used",
    "unigram entropy (nats)",
    "perplexity",
    "repeats",
  ]
  text = f"{last['used']} of {vocabulary} centres occur in the {split} split."
  if cross_entropy is not None:
    header += ["LM cross-entropy", "LM without style", "% under unigram"]
    values["per_cent_under_unigram"] = last["per_cent_under_unigram"]
    text += (
      f" The LM's cross-entropy is {number(last['lm_cross_entropy'])} nats per token, "
      f"{number(last['per_cent_under_unigram'])} % under the unigram entropy of the same tokens."
    )
  return Finding("tokens", values, text + "\n\n" + table(tuple(header), rows))


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
