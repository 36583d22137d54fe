"""Semantic tokens on held-out music: use, what they tell, how well the LM predicts them."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
import ml_collections
import numpy as np

from melody_jax.evaluation.clips import (
  datasets_of,
  in_batches,
  named_roots,
  read_windows,
  stack_clips,
  with_all,
)
from melody_jax.evaluation.features import Encoders, encoded_windows
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.evaluation.language_model import token_cross_entropy
from melody_jax.input_pipeline.dataset import Dataset, has_split
from melody_jax.metrics.tokens import explained_variance, token_use
from melody_jax.models.musical_features import N_MELS, musical_features
from melody_jax.progress import print_progress

# Keys of a dataset's figures and the columns that they fill.
LM_COLUMNS = (
  ("lm_cross_entropy", "LM cross-entropy"),
  ("lm_cross_entropy_without_style", "LM without style"),
  ("per_cent_under_unigram", "% under unigram"),
  ("style_gain_first", "gain by style, first second"),
  ("wrong_style_gain_first", "gain by another window's style"),
)
EXPLAINED_COLUMNS = (
  ("log_mel_explained", "log-mel explained"),
  ("chroma_explained", "chroma explained"),
)
FIRST = 25  # tokens of the first second, where style is all that the LM knows
COLUMNS = (
  ("n_tokens", "tokens"),
  ("used", "centres used"),
  ("entropy", "unigram entropy (nats)"),
  ("perplexity", "perplexity"),
  ("repeat_rate", "repeats"),
)


def evaluate_tokens(
  windows: dict[str, tuple[np.ndarray, np.ndarray]],
  vocabulary: int,
  cross_entropy: Callable[[np.ndarray, np.ndarray], Any] | None,
  batch_size: int = 8,
  split: str = "validation",
  explained: dict[str, dict[str, float]] | None = None,
) -> Finding:
  """Use of the vocabulary, what tokens explain, and the LM against the unigram entropy.

  Both numbers are about the same tokens: all semantic tokens of windows that do not overlap. The
  unigram entropy is the best that a predictor without context could reach if it knew the
  frequencies of exactly these tokens. The LM has never seen them.

  Args:
    windows: {dataset: (semantic tokens [N, T], style tokens [N, levels])}, integers.
    vocabulary: Number of possible semantic tokens.
    cross_entropy: Maps style [B, levels] and semantic [B, T] to two arrays [B, T]: the nats of each
      token with the row's style tokens and without style. None leaves the LM out.
    batch_size: Rows per call of `cross_entropy`.
    split: Name of the split that the windows are of, for the text.
    explained: {dataset: {key of EXPLAINED_COLUMNS: share}} of the datasets with audio and a
      training split.

  Returns:
    The finding "tokens".
  """
  # The LM scores each window once; "all" joins scores and does not compute them again.
  sets = with_all(windows)
  scores = None
  if cross_entropy is not None:
    scores = with_all(
      {
        name: _scores(cross_entropy, semantic, style, batch_size)
        for name, (semantic, style) in windows.items()
      }
    )
  entries = {
    name: _entry(semantic, vocabulary, scores[name] if scores else None)
    | (explained or {}).get(name, {})
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
  columns = (*COLUMNS, *(LM_COLUMNS if scores is not None else ()))
  columns += EXPLAINED_COLUMNS if explained else ()
  rows = [(name, *(entry.get(key) for key, _ in columns)) for name, entry in entries.items()]
  header = (split, *(title for _, title in columns))
  return Finding("tokens", values, text + "\n\n" + table(header, rows))


def _scores(
  cross_entropy: Callable[[np.ndarray, np.ndarray], Any],
  semantic_NxT: np.ndarray,
  style_NxL: np.ndarray,
  batch_size: int,
) -> tuple[np.ndarray, ...]:
  """Nats a token [N, T] with the windows' own style, without any, and with another window's."""
  right, without = in_batches(cross_entropy, (style_NxL, semantic_NxT), batch_size)
  # Half of the set away lies another track, unless there is but one.
  others = np.roll(style_NxL, len(style_NxL) // 2, axis=0)
  wrong, _ = in_batches(cross_entropy, (others, semantic_NxT), batch_size)
  return right, without, wrong


def _entry(
  semantic_NxT: np.ndarray, vocabulary: int, scores: tuple[np.ndarray, ...] | None
) -> dict[str, Any]:
  """Figures of one dataset; `scores` are the LM's arrays of `_scores`, or None."""
  use = token_use(semantic_NxT, vocabulary)
  if scores is None:
    return dataclasses.asdict(use)
  conditional, unconditional = (float(part.mean()) for part in scores[:2])
  right, without, wrong = (float(part[:, :FIRST].mean()) for part in scores)
  # Where one token is all that occurs there is nothing to predict, and no share of it.
  share = conditional / use.entropy if use.entropy else math.nan
  return dataclasses.asdict(use) | {
    "lm_cross_entropy": conditional,
    "lm_cross_entropy_without_style": unconditional,
    "per_cent_under_unigram": 100.0 * (1.0 - share),
    "style_gain_first": without - right,
    "wrong_style_gain_first": without - wrong,
  }


def _explained(
  splits: tuple[Dataset, Dataset], encoders: Encoders, config: ml_collections.ConfigDict
) -> dict[str, float]:
  """Shares of log-mel and of chroma that semantic tokens explain.

  Args:
    splits: Audio that tells what a token stands for, and held-out audio that is guessed.
    encoders: The bundle's tokeniser.
    config: configs/evaluate.py.

  Returns:
    {key of EXPLAINED_COLUMNS: share of the variance, at most 1}.
  """
  sizes = encoders.semantic.config
  features = jax.jit(lambda audio: musical_features(audio, sizes.sample_rate, sizes.hop))

  def heard(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    count, seconds = config.tokens.explained_windows, config.window_seconds
    audio = stack_clips(read_windows(dataset, seconds, ("audio",), count, config.seed), "audio")
    tokens = encoders.compute("semantic_tokens", audio)
    values = in_batches(features, (audio,), min(config.batch_size, len(audio)))
    return tokens, values[:, : tokens.shape[1]]

  (fit_tokens, fit), (new_tokens, new) = (heard(dataset) for dataset in splits)
  parts = (slice(None, N_MELS), slice(N_MELS, None))
  return {
    key: explained_variance((fit_tokens, fit[..., p]), (new_tokens, new[..., p]), sizes.n_tokens)
    for (key, _), p in zip(EXPLAINED_COLUMNS, parts, strict=True)
  }


def tokens(config: ml_collections.ConfigDict) -> Finding:
  """Measures use of the semantic vocabulary, the LM, and where there is audio what tokens explain.

  Args:
    config: configs/evaluate.py: bundle, data, split, window_seconds, batch_size, seed and tokens.

  Returns:
    The finding "tokens", see `evaluate_tokens`.

  Raises:
    UserError: if the bundle has no LM, or no dataset has the split.
  """
  score, model = token_cross_entropy(config.bundle)
  encoders = Encoders(config.bundle, config.batch_size)
  windows, explained = {}, {}
  for name, dataset in datasets_of(config, config.split).items():
    print_progress(f"tokens: reading {name}")
    clips = encoded_windows(
      dataset, encoders, config.window_seconds, ("semantic_tokens", "style_tokens")
    )
    windows[name] = (stack_clips(clips, "semantic_tokens"), stack_clips(clips, "style_tokens"))
    # Tokens say what they stand for on music that they were fitted on.
    root = named_roots(config.data)[name]
    if "audio" in dataset.features and has_split(root, "train") and config.split != "train":
      explained[name] = _explained((Dataset(root, "train"), dataset), encoders, config)
  return evaluate_tokens(
    windows, model.semantic_vocab, score, config.batch_size, config.split, explained
  )
