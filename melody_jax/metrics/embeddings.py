"""Cosines of embeddings: agreement with prompts (MCC), diversity, nearest neighbours."""

import numpy as np


def unit_rows(x_NxD: np.ndarray) -> np.ndarray:
  """Rows [N, D] scaled to length 1, float64.

  Raises:
    ValueError: if a row is not finite, or all zeros and so without a direction.
  """
  x_NxD = np.asarray(x_NxD, np.float64)
  lengths = np.linalg.norm(x_NxD, axis=-1, keepdims=True)
  if not np.isfinite(lengths).all() or not lengths.all():
    raise ValueError("an embedding is all zeros or not finite: it has no direction")
  return x_NxD / lengths


def mulan_cycle_consistency(prompts_NxD: np.ndarray, music_NxD: np.ndarray) -> np.ndarray:
  """Cosine of each prompt's embedding and that of the music made for it; MCC is their mean.

      MCC = mean_i <text_i, music_i> / (|text_i| |music_i|)      docs/spec.md, section 8.1

  Args:
    prompts_NxD: MuLan embeddings of the texts [N, D].
    music_NxD: MuLan embeddings of the music [N, D].

  Returns:
    float64 [N].

  Raises:
    ValueError: if the shapes differ, or an embedding has no direction.
  """
  if np.shape(prompts_NxD) != np.shape(music_NxD):
    raise ValueError(f"{np.shape(prompts_NxD)} prompts and {np.shape(music_NxD)} clips of music")
  return np.sum(unit_rows(prompts_NxD) * unit_rows(music_NxD), axis=-1)


def mean_pairwise_distance(x_NxD: np.ndarray) -> float:
  """Diversity: mean of 1 - cosine over all pairs of N embeddings [N, D]; NaN for fewer than two."""
  n = len(x_NxD)
  if n < 2:
    return float("nan")
  # The sum of all cosines is the squared length of the sum; its diagonal is n.
  total = float(np.square(unit_rows(x_NxD).sum(axis=0)).sum())
  return 1.0 - (total - n) / (n * (n - 1))


def nearest(queries_QxD: np.ndarray, others_NxD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The nearest of N embeddings for each of Q, by cosine.

  Args:
    queries_QxD: Embeddings [Q, D].
    others_NxD: Embeddings [N, D], N at least 1.

  Returns:
    (index of the nearest, int [Q]; its cosine, float64 [Q]).
  """
  cosine_QxN = unit_rows(queries_QxD) @ unit_rows(others_NxD).T
  index = cosine_QxN.argmax(axis=1)
  return index, cosine_QxN[np.arange(len(index)), index]
