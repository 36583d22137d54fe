"""How a vocabulary is used: entropies and counts of discrete tokens."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class TokenUse:
  """Statistics of a bag of tokens.

  Attributes:
    n_tokens: tokens counted.
    used: distinct values that occur at least once.
    entropy: unigram entropy of the empirical distribution, nats per token.
    perplexity: exp(entropy), the effective vocabulary.
    repeat_rate: share of tokens equal to the one before them in their row.
  """

  n_tokens: int
  used: int
  entropy: float
  perplexity: float
  repeat_rate: float


def token_use(tokens_BxT: np.ndarray, vocabulary: int) -> TokenUse:
  """Counts the tokens of rows of one stream.

  The entropy is the plug-in estimate, which is biased low on few tokens; comparing a
  language model's cross-entropy with it is therefore conservative.

  Args:
    tokens_BxT: integers in [0, vocabulary), [rows, time].
    vocabulary: number of possible values.

  Raises:
    ValueError: no tokens, or one outside the vocabulary.
  """
  tokens = np.asarray(tokens_BxT)
  if tokens.ndim != 2 or not tokens.size:
    raise ValueError(f"token_use needs a non-empty [rows, time] array, got {tokens.shape}")
  if tokens.min() < 0 or tokens.max() >= vocabulary:
    raise ValueError(f"tokens lie in [{tokens.min()}, {tokens.max()}], vocabulary is {vocabulary}")
  counts = np.bincount(tokens.reshape(-1).astype(np.int64), minlength=vocabulary)
  p = counts[counts > 0] / counts.sum()
  entropy = float(-(p * np.log(p)).sum())
  repeats = float(np.mean(tokens[:, 1:] == tokens[:, :-1])) if tokens.shape[1] > 1 else 0.0
  return TokenUse(
    int(counts.sum()), int((counts > 0).sum()), entropy, float(np.exp(entropy)), repeats
  )
