"""Do clips agree with what their prompts ask? Shares and ranks, each with its chance and a test.

Clips of one prompt are alike, so what is permuted are prompts: all clips of one move together.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math

import numpy as np

_FLOOR = 1e-6  # of a posterior: a sigmoid in float32 can be 0
_MOST_EXACT = 10_000  # ways to choose the slow prompts, up to which all of them are counted


def standardised_log(posteriors_NxK: np.ndarray) -> np.ndarray:
  """Log posteriors of K tags less their mean over the N clips, over their spread: float64 [N, K].

  A tag that all clips have alike gets 0 everywhere: it says nothing of any of them.
  """
  log = np.log(np.maximum(np.asarray(posteriors_NxK, np.float64), _FLOOR))
  spread = log.std(axis=0, keepdims=True)
  # Rounding leaves a spread of 1e-16 where all are equal.
  return np.where(spread > 1e-9, (log - log.mean(axis=0, keepdims=True)) / (spread + 1e-30), 0.0)


def _p_value(null: np.ndarray, found: float) -> float:
  # The true labels are one permutation, so that p is never 0.
  return float((1 + (null >= found - 1e-9).sum()) / (1 + len(null)))


def _permuted(sums_PxP: np.ndarray, rng: np.random.Generator, permutations: int) -> np.ndarray:
  """Sums over prompts i of sums[i, permuted i], one a permutation [permutations]."""
  n = len(sums_PxP)
  return np.array([sums_PxP[np.arange(n), rng.permutation(n)].sum() for _ in range(permutations)])


@dataclasses.dataclass(frozen=True)
class FamilyAgreement:
  """How often the family that is heard is the one that was asked for.

  Attributes:
    right: Share of clips whose largest standardised log posterior is of the family asked for.
    chance: The share that permuted prompts have on average.
    p_value: Share of permutations that are right as often, the true prompts included.
    by_family: {family: share of its clips that are right}, of those asked for.
    clips: Number of clips.
    prompts: Number of prompts.
  """

  right: float
  chance: float
  p_value: float
  by_family: dict[str, float]
  clips: int
  prompts: int


def family_agreement(
  posteriors_NxK: np.ndarray,
  families: Sequence[str],
  asked_N: Sequence[str],
  prompts_N: Sequence[str],
  rng: np.random.Generator,
  permutations: int = 10_000,
) -> FamilyAgreement:
  """Counts right families.

  Args:
    posteriors_NxK: Posterior of each family's tag in each clip [N, K].
    families: Names of the K families.
    asked_N: Family that each clip's prompt asks for, N of them.
    prompts_N: Prompt of each clip, N of them; all clips of one ask for the same family.
    rng: Source of the permutations.
    permutations: Number of random permutations.
  """
  heard = np.asarray(standardised_log(posteriors_NxK).argmax(axis=1))
  asked = np.array([families.index(name) for name in asked_N])
  texts, which = np.unique(np.asarray(prompts_N), return_inverse=True)
  wanted = np.array([asked[which == p][0] for p in range(len(texts))])
  counts_PxK = np.zeros((len(texts), len(families)))
  np.add.at(counts_PxK, (which, heard), 1.0)
  right_PxP = counts_PxK[:, wanted] / len(heard)
  is_right = heard == asked
  found = float(is_right.mean())
  return FamilyAgreement(
    right=found,
    chance=float(right_PxP.mean(axis=1).sum()),
    p_value=_p_value(_permuted(right_PxP, rng, permutations), found),
    by_family={
      name: float(is_right[asked == k].mean()) for k, name in enumerate(families) if k in asked
    },
    clips=len(heard),
    prompts=len(texts),
  )


def area_under_curve(higher: np.ndarray, lower: np.ndarray) -> float:
  """P(a value of the first is larger than one of the second), ties half: Mann-Whitney's U / (n m).

  Args:
    higher: Values that should be larger [n].
    lower: Values that should be smaller [m].

  Raises:
    ValueError: if either is empty.
  """
  if not len(higher) or not len(lower):
    raise ValueError("two sets of values are needed")
  difference = np.asarray(higher)[:, None] - np.asarray(lower)[None, :]
  return float(np.mean(np.sign(difference) + 1.0) / 2.0)


@dataclasses.dataclass(frozen=True)
class TagAgreement:
  """How much more the tags that prompts name are heard in their own clips.

  Attributes:
    raised: Mean standardised log posterior of the tags asked for; chance has 0.
    auc: Mean over tags of `area_under_curve` of the clips that were asked for it against the
      others; chance has 0.5.
    p_value: Share of permutations of the prompts with as large a `raised`.
    by_tag: {tag: its area}, of tags that some prompts ask for and others do not.
    clips: Number of clips.
    prompts: Number of prompts.
  """

  raised: float
  auc: float
  p_value: float
  by_tag: dict[str, float]
  clips: int
  prompts: int


def tag_agreement(
  posteriors_NxK: np.ndarray,
  tags: Sequence[str],
  asked_NxK: np.ndarray,
  prompts_N: Sequence[str],
  rng: np.random.Generator,
  permutations: int = 10_000,
) -> TagAgreement | None:
  """Compares posteriors of tags with what prompts ask for.

  Args:
    posteriors_NxK: Posteriors of K tags in N clips.
    tags: Names of the K tags.
    asked_NxK: Which tags each clip's prompt asks for, bool [N, K].
    prompts_N: Prompt of each clip, N of them.
    rng: Source of the permutations.
    permutations: Number of random permutations.

  Returns:
    The agreement, or None where no tag tells clips apart: none is asked for, or all by all.
  """
  posteriors, asked_NxK = np.asarray(posteriors_NxK), np.asarray(asked_NxK, bool)
  telling = np.asarray(asked_NxK.any(axis=0) & ~asked_NxK.all(axis=0))
  if not telling.any():
    return None
  z_NxK, asked_NxK = standardised_log(posteriors[:, telling]), asked_NxK[:, telling]
  names = [name for name, tells in zip(tags, telling, strict=True) if tells]
  texts, which = np.unique(np.asarray(prompts_N), return_inverse=True)
  asked_PxK = np.stack([asked_NxK[which == p][0] for p in range(len(texts))])
  summed_PxK = np.zeros(asked_PxK.shape)
  np.add.at(summed_PxK, which, z_NxK)
  sums_PxP = summed_PxK @ asked_PxK.T
  pairs = float(asked_NxK.sum())
  areas = {
    name: area_under_curve(z_NxK[asked_NxK[:, k], k], z_NxK[~asked_NxK[:, k], k])
    for k, name in enumerate(names)
  }
  found = float(np.trace(sums_PxP))
  return TagAgreement(
    raised=found / pairs,
    auc=float(np.mean(list(areas.values()))),
    p_value=_p_value(_permuted(sums_PxP, rng, permutations), found),
    by_tag=areas,
    clips=len(z_NxK),
    prompts=len(texts),
  )


@dataclasses.dataclass(frozen=True)
class TempoAgreement:
  """Whether clips whose prompt says fast have more onsets than those whose prompt says slow.

  Attributes:
    slow: Mean onsets a second of the slow clips.
    fast: The same of the fast ones.
    auc: `area_under_curve` of fast over slow clips; chance has 0.5.
    p_value: Share of the ways to choose as many slow prompts whose means differ as much, the true
      one included. Its smallest value is one over their number.
    p_value_of_clips: Mann-Whitney's, one-sided, as if all clips were independent, which those of
      one prompt are not.
    clips: (slow clips, fast clips).
    prompts: (slow prompts, fast prompts).
  """

  slow: float
  fast: float
  auc: float
  p_value: float
  p_value_of_clips: float
  clips: tuple[int, int]
  prompts: tuple[int, int]


def tempo_agreement(
  rates_N: np.ndarray,
  is_fast_N: np.ndarray,
  prompts_N: Sequence[str],
  rng: np.random.Generator,
) -> TempoAgreement | None:
  """Compares the onset rates of slow and fast clips.

  Args:
    rates_N: Onsets a second of each clip.
    is_fast_N: Whether its prompt says fast; else it says slow. bool [N].
    prompts_N: Prompt of each clip, N of them.
    rng: Source of random choices where there are too many to count all.

  Returns:
    The agreement, or None without clips of either kind.
  """
  from scipy.stats import mannwhitneyu

  rates, is_fast = np.asarray(rates_N, np.float64), np.asarray(is_fast_N, bool)
  if is_fast.all() or not is_fast.any():
    return None
  texts, which = np.unique(np.asarray(prompts_N), return_inverse=True)
  means = np.array([rates[which == p].mean() for p in range(len(texts))])
  fast = np.array([is_fast[which == p][0] for p in range(len(texts))])
  n, k = len(texts), int(fast.sum())
  if math.comb(n, k) <= _MOST_EXACT:
    choices = np.array(list(itertools.combinations(range(n), k)))
  else:
    true = np.flatnonzero(fast)[None]
    drawn = np.stack([rng.permutation(n)[:k] for _ in range(_MOST_EXACT)])
    choices = np.concatenate([true, drawn])
  # With their number given, the sum over the fast prompts says all that the difference does.
  null = means[choices].sum(axis=1)
  groups = rates[is_fast], rates[~is_fast]
  return TempoAgreement(
    slow=float(groups[1].mean()),
    fast=float(groups[0].mean()),
    auc=area_under_curve(*groups),
    p_value=float((null >= means[fast].sum() - 1e-9).mean()),
    p_value_of_clips=float(mannwhitneyu(*groups, alternative="greater").pvalue),
    clips=(len(groups[1]), len(groups[0])),
    prompts=(n - k, k),
  )
