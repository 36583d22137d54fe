"""k-means of the semantic features, by mini-batches (docs/spec.md, section 4).

Writes kmeans/centroids [K, D], kmeans/mean [D] and kmeans/std [D] into the file of wav2vec.
"""

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
  """Whitens features and fits centres by mini-batches, dead ones re-seeded.

  Args:
    features_NxD: float32; N at least `n_centres`.
    n_centres: K.
    rng: key.
    passes: over all features, in a new random order each.
    points: features of a mini-batch (fewer where N is).
    scaled: dimensions have their weights already (the musical teacher's): the spread of each is
      kept, only the mean is taken off.

  Returns:
    ({"centroids" [K, D], "mean" [D], "std" [D]}, {"distortion": mean squared distance over D
    in the last pass, "reseeded": centres moved in the last pass}).

  Raises:
    UserError: if there are fewer features than centres.
  """
  n = len(features_NxD)
  if n < n_centres:
    raise UserError(f"{n} frames cannot fit {n_centres} centres: raise config.windows")
  points = min(points, n)
  mean_D = features_NxD.mean(axis=0, dtype=np.float64).astype(np.float32)
  std_D = np.maximum(features_NxD.std(axis=0, dtype=np.float64), 1e-3).astype(np.float32)
  if scaled:
    std_D = np.ones_like(std_D)
  whitened = jax.jit(lambda x: whiten(x, mean_D, std_D))
  order_rng = np.random.default_rng(int(jax.random.randint(rng, (), 0, 2**31 - 1)))
  seed_rng, update_rng = jax.random.split(rng)
  sample = order_rng.choice(n, min(n, 8 * n_centres), replace=False)
  state = quantizer.kmeans_init(seed_rng, whitened(features_NxD[sample]), n_centres)
  report: dict[str, float] = {}
  for p in range(passes):
    order = order_rng.permutation(n)
    batches = [order[i : i + points] for i in range(0, n - points + 1, points)]
    totals = {"distortion": 0.0, "reseeded": 0.0}
    for i, chosen in enumerate(batches):
      key = jax.random.fold_in(update_rng, p * len(batches) + i)
      state, step = quantizer.kmeans_update(state, whitened(features_NxD[chosen]), key)
      totals = {k: totals[k] + float(step[k]) for k in totals}
    report = {
      "distortion": totals["distortion"] / len(batches) / len(mean_D),
      "reseeded": totals["reseeded"],
    }
    print(
      f"k-means pass {p + 1} of {passes}: distortion {report['distortion']:.4f},"
      f" {report['reseeded']:.0f} centres re-seeded",
      flush=True,
    )
  return {"centroids": np.asarray(state.centroids), "mean": mean_D, "std": std_D}, report


def bigram_cross_entropy(
  train_BxT: np.ndarray, eval_BxT: np.ndarray, vocabulary: int, prior: float = 5.0
) -> float:
  """Nats per token of a smoothed bigram model, fitted on one set, measured on another.

  p(b | a) = (n(a, b) + prior p(b)) / (n(a) + prior). What a real language model must beat:
  it tells early whether tokens are predictable enough.
  """
  unigram = np.bincount(train_BxT.ravel(), minlength=vocabulary) + 1.0
  unigram /= unigram.sum()
  first, second = train_BxT[:, :-1].ravel(), train_BxT[:, 1:].ravel()
  pairs = np.zeros((vocabulary, vocabulary), np.float32)
  np.add.at(pairs, (first, second), 1.0)
  a, b = eval_BxT[:, :-1].ravel(), eval_BxT[:, 1:].ravel()
  p = (pairs[a, b] + prior * unigram[b]) / (pairs.sum(axis=1)[a] + prior)
  return float(-np.log(p).mean())


def fit_semantic(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fits and stores the semantic k-means; returns and stores its validation report."""
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
  # What is measured is what was stored, rounding included.
  stored = bundle.load(path)[0]
  assign = jax.jit(
    lambda x: quantizer.kmeans_assign(
      stored["kmeans"]["centroids"], whiten(x, stored["kmeans"]["mean"], stored["kmeans"]["std"])
    )
  )
  train_tokens = np.concatenate(
    [np.asarray(assign(f)) for f in np.array_split(features, max(len(features) // 8, 1))]
  )
  to_tokens = jax.jit(lambda audio: semantic_tokens(stored, model_config, audio))
  tokens = collect(
    to_tokens,
    clip_batches(config, config.data.eval_split, config.eval_windows, False),
    "validation",
  )
  use = token_use(tokens, model_config.n_tokens)
  report |= {
    "validation_tokens": use.n_tokens,
    "centres": model_config.n_tokens,
    "centres_used": use.used,
    "unigram_entropy": use.entropy,
    "repeat_rate": use.repeat_rate,
    "bigram_cross_entropy": bigram_cross_entropy(train_tokens, tokens, model_config.n_tokens),
  }
  bundle.update(path, {}, {"kmeans_report": report})
  share = 1.0 - report["bigram_cross_entropy"] / max(use.entropy, 1e-9)
  print(
    f"{path}: {use.used} of {model_config.n_tokens} centres used in"
    f" {use.n_tokens} validation tokens;"
    f" unigram entropy {use.entropy:.3f} nats,"
    f" bigram cross-entropy {report['bigram_cross_entropy']:.3f}"
    f" ({share:.1%} under), {use.repeat_rate:.1%} repeats"
  )
  return report
