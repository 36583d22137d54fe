"""Fits the k-means centres of the semantic tokens, by mini-batches (docs/spec.md, section 4).

Writes kmeans/centroids [K, D], kmeans/mean [D] and kmeans/std [D], float32, into the file of
wav2vec.
"""

from collections.abc import Callable
import os
from typing import Any

import jax
import ml_collections
import numpy as np

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.fitting.batches import clip_batches, collect
from melody_jax.metrics.tokens import token_use
from melody_jax.models import quantizer
from melody_jax.models.wav2vec import Wav2VecConfig, semantic_features, semantic_tokens, whiten


def fit_kmeans(
  features_NxD: np.ndarray,
  n_centres: int,
  rng: jax.Array,
  passes: int,
  points: int,
  scaled: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
  """Whitens features and fits centres to them. Centres that lose all points are placed anew.

  Args:
    features_NxD: Features, float32 [N, D]; N at least `n_centres`.
    n_centres: Number of centres K.
    rng: Random key.
    passes: Number of passes over all features, each in a new random order.
    points: Features in a mini-batch. Fewer if N is smaller.
    scaled: Whether the dimensions already have the right weights (the musical teacher's have).
      Then only the mean is taken off, and the standard deviation is stored as 1.

  Returns:
    (constants, report). The constants are "centroids" [K, D], "mean" [D] and "std" [D], float32.
    The report is about the last pass: "distortion", the mean squared distance divided by D, and
    "reseeded", the number of centres placed anew.

  Raises:
    UserError: There are fewer features than centres.
  """
  n = len(features_NxD)
  if n < n_centres:
    raise UserError(f"{n} frames cannot fit {n_centres} centres: raise config.windows")
  points = min(points, n)
  mean_D = features_NxD.mean(axis=0, dtype=np.float64).astype(np.float32)
  # A dimension that never changes would be divided by zero.
  std_D = np.maximum(features_NxD.std(axis=0, dtype=np.float64), 1e-3).astype(np.float32)
  if scaled:
    std_D = np.ones_like(std_D)
  whitened = jax.jit(lambda x: whiten(x, mean_D, std_D))
  centroids_KxD, report = _kmeans_passes(features_NxD, whitened, n_centres, rng, passes, points)
  return {"centroids": centroids_KxD, "mean": mean_D, "std": std_D}, report


def _kmeans_passes(
  features_NxD: np.ndarray,
  whitened: Callable[[np.ndarray], jax.Array],
  n_centres: int,
  rng: jax.Array,
  passes: int,
  points: int,
) -> tuple[np.ndarray, dict[str, float]]:
  """Centres [K, D] of whitened features, and the report of the last pass; see `fit_kmeans`."""
  n, dimensions = features_NxD.shape
  # numpy shuffles on the host, where the features are; its seed comes from the same key.
  order_rng = np.random.default_rng(int(jax.random.randint(rng, (), 0, 2**31 - 1)))
  seed_rng, update_rng = jax.random.split(rng)
  # k-means++ looks at all points once for each centre, so it gets a sample.
  sample = order_rng.choice(n, min(n, 8 * n_centres), replace=False)
  state = quantizer.kmeans_init(seed_rng, whitened(features_NxD[sample]), n_centres)
  report: dict[str, float] = {}
  for p in range(passes):
    order = order_rng.permutation(n)
    # The rest that fills no batch sits out this pass; another order leaves out others.
    batches = [order[i : i + points] for i in range(0, n - points + 1, points)]
    totals = {"distortion": 0.0, "reseeded": 0.0}
    for i, chosen in enumerate(batches):
      key = jax.random.fold_in(update_rng, p * len(batches) + i)
      state, step = quantizer.kmeans_update(state, whitened(features_NxD[chosen]), key)
      totals = {k: totals[k] + float(step[k]) for k in totals}
    report = {
      "distortion": totals["distortion"] / len(batches) / dimensions,
      "reseeded": totals["reseeded"],
    }
    print(
      f"k-means pass {p + 1} of {passes}: distortion {report['distortion']:.4f},"
      f" {report['reseeded']:.0f} centres re-seeded",
      flush=True,
    )
  return np.asarray(state.centroids), report


def bigram_cross_entropy(
  train_BxT: np.ndarray, eval_BxT: np.ndarray, vocabulary: int, prior: float = 5.0
) -> float:
  """Cross-entropy of a smoothed bigram model, which any language model must beat.

      p(b | a) = (n(a, b) + prior p(b)) / (n(a) + prior)

  It tells before any training of an LM whether the tokens are predictable.

  Args:
    train_BxT: Tokens that the model is fitted on, int [B, T].
    eval_BxT: Tokens that it is measured on, int [B, T].
    vocabulary: Number of different tokens.
    prior: Weight of the unigram distribution, in counts.

  Returns:
    Nats per token.
  """
  # One count more for every token: none has probability zero.
  unigram = np.bincount(train_BxT.ravel(), minlength=vocabulary) + 1.0
  unigram /= unigram.sum()
  # Within rows: the end of one clip says nothing about the beginning of the next.
  first, second = train_BxT[:, :-1].ravel(), train_BxT[:, 1:].ravel()
  pairs = np.zeros((vocabulary, vocabulary), np.float32)
  # Not pairs[first, second] += 1, which counts a repeated pair once.
  np.add.at(pairs, (first, second), 1.0)
  a, b = eval_BxT[:, :-1].ravel(), eval_BxT[:, 1:].ravel()
  p = (pairs[a, b] + prior * unigram[b]) / (pairs.sum(axis=1)[a] + prior)
  return float(-np.log(p).mean())


def fit_semantic(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fits the k-means of the semantic tokens and stores it in the bundle.

  Args:
    config: Config of the fit (configs/fit.py:semantic).

  Returns:
    The report on validation data, which is stored as well: distortion, use of the centres,
    entropies in nats per token, share of repeated tokens.

  Raises:
    UserError: The bundle has no wav2vec, config.data names no data, or there are too few frames.
  """
  path = bundle.path_of(config.bundle, "wav2vec")
  model_config, params = bundle.load_model(config.bundle, "wav2vec", Wav2VecConfig)
  of_features = jax.jit(lambda audio: semantic_features(params, model_config, audio))
  features = collect(
    of_features, clip_batches(config, config.data.split, config.windows, True), "features"
  )
  kmeans, report = fit_kmeans(
    features.reshape(-1, features.shape[-1]),
    model_config.n_tokens,
    jax.random.key(config.seed),
    config.passes,
    config.points,
    scaled=model_config.tokens_from == "teacher",
  )
  bundle.update(path, {"kmeans": kmeans}, {})
  report |= _validate(config, path, model_config, features)
  bundle.update(path, {}, {"kmeans_report": report})
  return report


def _validate(
  config: ml_collections.ConfigDict,
  path: str | os.PathLike,
  model_config: Wav2VecConfig,
  features_BxTxD: np.ndarray,
) -> dict[str, Any]:
  """Measures the stored centres on validation data, against bigrams of the fitted features."""
  # Read back, so that the report is about what was stored, with its rounding.
  stored = bundle.load(path)[0]
  assign = jax.jit(
    lambda x: quantizer.kmeans_assign(
      stored["kmeans"]["centroids"], whiten(x, stored["kmeans"]["mean"], stored["kmeans"]["std"])
    )
  )
  train_tokens = np.concatenate(
    [
      np.asarray(assign(f))
      for f in np.array_split(features_BxTxD, max(len(features_BxTxD) // 8, 1))
    ]
  )
  to_tokens = jax.jit(lambda audio: semantic_tokens(stored, model_config, audio))
  tokens = collect(
    to_tokens,
    clip_batches(config, config.data.eval_split, config.eval_windows, False),
    "validation",
  )
  use = token_use(tokens, model_config.n_tokens)
  bigram = bigram_cross_entropy(train_tokens, tokens, model_config.n_tokens)
  share = 1.0 - bigram / max(use.entropy, 1e-9)
  print(
    f"{path}: {use.used} of {model_config.n_tokens} centres used in"
    f" {use.n_tokens} validation tokens;"
    f" unigram entropy {use.entropy:.3f} nats,"
    f" bigram cross-entropy {bigram:.3f}"
    f" ({share:.1%} under), {use.repeat_rate:.1%} repeats"
  )
  return {
    "validation_tokens": use.n_tokens,
    "centres": model_config.n_tokens,
    "centres_used": use.used,
    "unigram_entropy": use.entropy,
    "repeat_rate": use.repeat_rate,
    "bigram_cross_entropy": bigram,
  }
