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
  fit: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray], vocabulary: int
) -> float:
  """Share of the variance of values that their tokens explain, on rows that did not fit it.

  A value's guess is the mean of the fitted values of its token, drawn to the mean of all by one
  count, so that a rare token's guess is not noise.

  Args:
    fit: (tokens [rows, time], integers in [0, vocabulary); values of each frame, float [rows, time,
      values]) that tell what a token stands for.
    held: The same of other music, which is guessed.
    vocabulary: Number of possible tokens.

  Returns:
    1 for tokens that tell all, 0 or less for tokens that tell nothing; NaN where nothing varies.
  """

  def flat(tokens_BxT: np.ndarray, values_BxTxV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values_BxTxV, np.float64)
    return np.asarray(tokens_BxT).reshape(-1), values.reshape(-1, values.shape[-1])

  tokens, values = flat(*fit)
  sums = np.zeros((vocabulary, values.shape[1]))
  np.add.at(sums, tokens, values)
  counts = np.bincount(tokens, minlength=vocabulary)
  means = (sums + values.mean(axis=0)) / (counts[:, None] + 1)
  tokens, values = flat(*held)
  variance = np.sum(np.square(values - values.mean(axis=0)))
  error = np.sum(np.square(values - means[tokens]))
  return float(1.0 - error / variance) if variance else float("nan")
