"""Text-to-music retrieval, and the rank of a right answer, each with its chance level."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """Scores of a set of queries over a set of candidates; see `recall_at_k`.

  Attributes:
    recall: Mean over queries of |relevant in the first k| / |relevant|.
    recall_chance: Recall of a random order, exactly k / candidates.
    recall_best: Recall of a perfect order. It is below 1 where more than k are relevant.
    hit_rate: Share of the queries with at least one relevant candidate in the first k.
    hit_rate_chance: Hit rate of a random order.
    k: Number of candidates that are looked at.
    n_queries: Number of queries.
    n_candidates: Number of candidates.
    mean_relevant: Mean number of relevant candidates per query.
  """

  recall: float
  recall_chance: float
  recall_best: float
  hit_rate: float
  hit_rate_chance: float
  k: int
  n_queries: int
  n_candidates: int
  mean_relevant: float

  @property
  def over_chance(self) -> float:
    """Recall divided by the recall of a random order."""
    return self.recall / self.recall_chance


def _miss_probability(n: int, relevant: int, k: int) -> float:
  """P(no relevant among k drawn without replacement) = C(n - relevant, k) / C(n, k)."""
  # As a product of k ratios: the binomials themselves overflow.
  draws = np.arange(k)
  return float(np.prod(np.maximum(n - relevant - draws, 0) / (n - draws)))


def recall_at_k(similarity_QxC: np.ndarray, relevant_QxC: np.ndarray, k: int) -> Retrieval:
  """Recall and hit rate in the first k candidates, each with the level that chance would reach.

  Several candidates may be right for a query, for example clips with the same caption. Recall is
  the share of them that lies in the first k. A random order reaches k / C, however many are right;
  so shared captions neither help nor harm. The hit rate asks for at least one of them; a random
  order reaches 1 - C(C - r, k) / C(C, k), which grows with their number r. Candidates of equal
  similarity count as if they came in random order.

  Args:
    similarity_QxC: Similarity of every query and candidate [Q, C]; larger is closer.
    relevant_QxC: Which candidates are right, bool [Q, C]; at least one in every row.
    k: Number of candidates that are looked at, 1 <= k <= C.

  Raises:
    ValueError: if k is out of range, or a query has no relevant candidate.
  """
  similarity = np.asarray(similarity_QxC, np.float64)
  relevant = np.asarray(relevant_QxC, bool)
  n_queries, n = similarity.shape
  if relevant.shape != similarity.shape or not 1 <= k <= n:
    raise ValueError(f"shapes {similarity.shape}, {relevant.shape} and k={k} do not fit")
  counts = relevant.sum(axis=1)
  if not counts.all():
    raise ValueError(f"query {int(np.argmin(counts))} has no relevant candidate")
  # By threshold instead of argsort, which would decide ties by position.
  kth = np.sort(similarity, axis=1)[:, n - k][:, None]
  above, tied = similarity > kth, similarity == kth
  # Of the tied candidates only k - |above| fit in; each is in with that share.
  share = (k - above.sum(axis=1)) / tied.sum(axis=1)
  found = (above & relevant).sum(axis=1) + share * (tied & relevant).sum(axis=1)
  missed = np.array(
    [
      0.0 if sure else _miss_probability(int(t), int(r), int(round(s * t)))
      for sure, t, r, s in zip(
        (above & relevant).any(axis=1),
        tied.sum(axis=1),
        (tied & relevant).sum(axis=1),
        share,
        strict=True,
      )
    ]
  )
  return Retrieval(
    recall=float(np.mean(found / counts)),
    recall_chance=k / n,
    recall_best=float(np.mean(np.minimum(counts, k) / counts)),
    hit_rate=float(1.0 - missed.mean()),
    hit_rate_chance=float(1.0 - np.mean([_miss_probability(n, int(r), k) for r in counts])),
    k=k,
    n_queries=n_queries,
    n_candidates=n,
    mean_relevant=float(counts.mean()),
  )


@dataclasses.dataclass(frozen=True)
class RankTest:
  """Ranks of the right classes, tested against permuted labels; see `rank_test`.

  Attributes:
    mean_rank: Mean rank of the right class; 1 is best.
    mean_rank_chance: Mean rank in a random order, (classes + 1) / 2.
    mrr: Mean reciprocal rank of the right class.
    mrr_chance: Mean reciprocal rank in a random order.
    top: {k: (share of the items whose right class ranks in the first k, k / classes)}.
    margin: (mean_rank_chance - mean_rank) / mean_rank_chance: 0 at chance, near 1 when perfect.
    p_value: Share of the permutations (the true labels included) whose mean rank is as small as
      the true one, or smaller.
    null_std: Standard deviation of the mean rank over the permutations.
    n_items: Number of items.
    n_classes: Number of classes.
    n_permutations: Number of permutations.
  """

  mean_rank: float
  mean_rank_chance: float
  mrr: float
  mrr_chance: float
  top: dict[int, tuple[float, float]]
  margin: float
  p_value: float
  null_std: float
  n_items: int
  n_classes: int
  n_permutations: int


def ranks_of_classes(scores_IxC: np.ndarray) -> np.ndarray:
  """Rank of every class for every item [I, C]: 1 for the largest score; ties get the mean rank."""
  # All pairs at once: C is the number of prompts, some dozens.
  larger = (scores_IxC[:, None, :] > scores_IxC[:, :, None]).sum(axis=-1)
  equal = (scores_IxC[:, None, :] == scores_IxC[:, :, None]).sum(axis=-1)
  return larger + (equal + 1) / 2.0


def rank_test(
  scores_IxC: np.ndarray,
  labels_I: np.ndarray,
  rng: np.random.Generator,
  ks: tuple[int, ...] = (1, 3, 5),
  n_permutations: int = 10_000,
) -> RankTest:
  """Tests whether items score their own class higher than the other classes.

  Items of one class (the seeds of one prompt) are not independent. So a permutation moves whole
  classes: all items of a class get the label of one other class.

  Args:
    scores_IxC: Score of every class for every item [I, C]; larger is better.
    labels_I: Right class of every item [I], integers in [0, C).
    rng: Source of the permutations.
    ks: Ranks at which the share of items is reported.
    n_permutations: Number of random permutations.
  """
  ranks_IxC = ranks_of_classes(np.asarray(scores_IxC, np.float64))
  labels_I = np.asarray(labels_I)
  n_items, n_classes = ranks_IxC.shape
  # summed_CxC[a, b]: sum of ranks if the items of class a were labelled b. With it a permutation
  # costs C additions instead of a pass over all items.
  summed_CxC = np.zeros((n_classes, n_classes))
  np.add.at(summed_CxC, labels_I, ranks_IxC)
  # Ranks, not scores: judges have scales of their own, and ranks compare.
  own = ranks_IxC[np.arange(n_items), labels_I]
  mean_rank = float(own.mean())
  # Their spread says how far from chance a mean rank may lie by accident.
  null = (
    np.array(
      [
        summed_CxC[np.arange(n_classes), rng.permutation(n_classes)].sum()
        for _ in range(n_permutations)
      ]
    )
    / n_items
  )
  chance = (n_classes + 1) / 2.0
  return RankTest(
    mean_rank=mean_rank,
    mean_rank_chance=chance,
    mrr=float(np.mean(1.0 / own)),
    mrr_chance=float(np.mean(1.0 / np.arange(1, n_classes + 1))),
    top={k: (float(np.mean(own <= k)), k / n_classes) for k in ks},
    margin=(chance - mean_rank) / chance,
    # The true labels count as one permutation, so that p is never 0.
    p_value=float((1 + (null <= mean_rank + 1e-9).sum()) / (1 + n_permutations)),
    null_std=float(null.std()),
    n_items=n_items,
    n_classes=n_classes,
    n_permutations=n_permutations,
  )
