"""Use of a vocabulary: entropy and counts of discrete tokens, and what tokens tell of a frame."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class TokenUse:
  """Statistics of a set of tokens.

  Attributes:
    n_tokens: Number of tokens.
    used: Number of distinct values among them.
    entropy: Unigram entropy of their frequencies, in nats per token.
    perplexity: exp(entropy), the effective size of the vocabulary.
    repeat_rate: Share of the tokens that equal the token before them in their row.
  """

  n_tokens: int
  used: int
  entropy: float
  perplexity: float
  repeat_rate: float


def token_use(tokens_BxT: np.ndarray, vocabulary: int) -> TokenUse:
  """Counts the tokens of a stream, given as rows.

  The entropy is that of the observed frequencies, which is too low where tokens are few. So a
  language model that beats it has earned that.

  Args:
    tokens_BxT: Tokens [rows, time], integers in [0, vocabulary).
    vocabulary: Number of possible values.

  Raises:
    ValueError: if there are no tokens, or one lies outside the vocabulary.
  """
  tokens = np.asarray(tokens_BxT)
  if tokens.ndim != 2 or not tokens.size:
    raise ValueError(f"token_use needs a non-empty [rows, time] array, got {tokens.shape}")
  # -1 marks padding: counted as a token it would be a value of its own.
  if tokens.min() < 0 or tokens.max() >= vocabulary:
    raise ValueError(f"tokens lie in [{tokens.min()}, {tokens.max()}], vocabulary is {vocabulary}")
  counts = np.bincount(tokens.reshape(-1).astype(np.int64), minlength=vocabulary)
  # 0 log 0 is 0: unused values are left out.
  p = counts[counts > 0] / counts.sum()
  entropy = float(-(p * np.log(p)).sum())
  # Within rows only: the end of one window and the start of another are no neighbours.
  repeats = float(np.mean(tokens[:, 1:] == tokens[:, :-1])) if tokens.shape[1] > 1 else 0.0
  return TokenUse(
    int(counts.sum()), int((counts > 0).sum()), entropy, float(np.exp(entropy)), repeats
  )


def explained_variance(
  tokens_BxT: np.ndarray, values_BxTxV: np.ndarray, group_B: np.ndarray, vocabulary: int
) -> float:
  """Share of the variance of values that their tokens explain, on rows that did not fit it.

  A value's guess is the mean of the values that had its token in the other half of the groups,
  drawn to the mean of all by one count, so that a rare token's guess is not noise.

  Args:
    tokens_BxT: Tokens [rows, time], integers in [0, vocabulary).
    values_BxTxV: Values of each frame, float [rows, time, values].
    group_B: Group of every row [rows], as its track: a group is never guessed by itself.
    vocabulary: Number of possible tokens.

  Returns:
    1 for tokens that tell all, 0 or less for tokens that tell nothing; NaN for a single group.
  """
  half_B = np.unique(group_B, return_inverse=True)[1] % 2
  if half_B.min() == half_B.max():
    return float("nan")
  error = variance = 0.0
  for half in (0, 1):
    fit, held = half_B != half, half_B == half
    values = values_BxTxV[fit].reshape(-1, values_BxTxV.shape[-1]).astype(np.float64)
    sums = np.zeros((vocabulary, values.shape[1]))
    np.add.at(sums, tokens_BxT[fit].reshape(-1), values)
    counts = np.bincount(tokens_BxT[fit].reshape(-1), minlength=vocabulary)
    means = (sums + values.mean(axis=0)) / (counts[:, None] + 1)
    there = values_BxTxV[held].reshape(-1, values.shape[1]).astype(np.float64)
    error += np.sum(np.square(there - means[tokens_BxT[held].reshape(-1)]))
    variance += np.sum(np.square(there - there.mean(axis=0)))
  return float(1.0 - error / variance) if variance else float("nan")
