"""Fits a quantiser on a corpus and adds it to its model's file in a bundle.

    python -m melody_jax.fit_quantizer --config=configs/quantizer.py:semantic \
        --config.bundle=DIR --config.data.path=DATASETS

Semantic (SPEC section 4): k-means by mini-batches on whitened features of the wav2vec model;
writes kmeans/centroids [K, D], kmeans/mean [D] and kmeans/std [D]. Style (SPEC section 3):
residual k-means of music embeddings; writes rvq/codebooks [Q, K, C]. Prior: the linear map from
embeddings of captions to those of their music (`mulan.embed_prompt`), by ridge regression; writes
prior/kernel [C, C] and prior/offset [C]. Latents (SPEC section 7):
mean and spread of the VAE's posterior means over the corpus, which scale them into [-1, 1];
writes latent_scale/center_D and latent_scale/sigma_D.
"""

from collections.abc import Callable, Iterator
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from melody_jax import bundle, cli
from melody_jax.encoders import Codec
from melody_jax.errors import UserError
from melody_jax.input_pipeline.source import make_source
from melody_jax.metrics.tokens import token_use
from melody_jax.models import quantizer
from melody_jax.models.wav2vec import Wav2VecConfig, semantic_features, semantic_tokens, whiten
from melody_jax.task import WindowFeature


class _AudioWindows:
  """Asks an input source for audio only."""

  def __init__(self, config: ml_collections.ConfigDict):
    self._samples = int(config.window_seconds * config.sample_rate)

  def input_features(self) -> dict[str, WindowFeature]:
    return {"audio": WindowFeature((self._samples,), "float32")}


def _batches(
  config: ml_collections.ConfigDict, split: str, windows: int, shuffle: bool
) -> Iterator[np.ndarray]:
  """Batches of clips [batch, samples], `windows` clips in all (the last batch is whole)."""
  source = make_source(config, _AudioWindows(config), split, shuffle)
  if not shuffle:
    windows = min(windows, getattr(source, "windows", windows))
  for _ in range(-(-windows // config.train.batch_size)):
    yield next(source)["audio"]


def _collect(
  function: Callable[[jax.Array], jax.Array], batches: Iterator[np.ndarray], title: str
) -> np.ndarray:
  """Runs `function` over batches -> one array, with a progress line every ten seconds."""
  parts, began, last = [], time.monotonic(), time.monotonic()
  for audio in batches:
    parts.append(np.asarray(function(jnp.asarray(audio))))
    if time.monotonic() - last > 10.0:
      last = time.monotonic()
      clips = sum(map(len, parts))
      print(f"{title}: {clips} clips, {clips / (last - began):.1f} a second", flush=True)
  return np.concatenate(parts)


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
  features = _collect(
    of_features, _batches(config, config.data.split, config.windows, True), "features"
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
  tokens = _collect(
    to_tokens, _batches(config, config.data.eval_split, config.eval_windows, False), "validation"
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


def fit_style(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fits and stores the residual codebooks; returns and stores their validation report."""
  from melody_jax.models.mulan import MuLanConfig, embed_music

  path = bundle.path_of(config.bundle, "mulan")
  model_config, params = bundle.load_model(config.bundle, "mulan", MuLanConfig)
  embed = jax.jit(lambda audio: embed_music(params, model_config, audio))
  embeddings = _collect(
    embed, _batches(config, config.data.split, config.windows, True), "embeddings"
  )
  if len(embeddings) < config.n_centres:
    raise UserError(
      f"{len(embeddings)} clips cannot fit {config.n_centres} centres: raise config.windows"
    )
  codebooks, _ = quantizer.fit_rvq(
    embeddings, jax.random.key(config.seed), config.n_levels, config.n_centres, config.iterations
  )
  bundle.update(path, {"rvq": {"codebooks": codebooks}}, {})
  stored = bundle.load(path)[0]["rvq"]["codebooks"]
  held_out = _collect(
    embed, _batches(config, config.data.eval_split, config.eval_windows, False), "validation"
  )
  report = quantizer.rvq_report(stored, held_out)
  bundle.update(path, {}, {"rvq_report": report})
  for level, (used, cosine) in enumerate(
    zip(report["utilisation"], report["reconstruction_cosine"])
  ):
    print(f"level {level + 1}: {used:.1%} of the centres used, reconstruction cosine {cosine:.4f}")
  print(f"{path}: {config.n_levels} levels of {config.n_centres}, {len(held_out)} validation clips")
  return report


def fit_linear(
  inputs_NxC: np.ndarray, targets_NxC: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
  """Ridge regression: (kernel [C, C], offset [C]) with targets about inputs kernel + offset.

  `ridge` is the weight of |kernel|^2 against the mean squared error.
  """
  x_mean, y_mean = inputs_NxC.mean(axis=0), targets_NxC.mean(axis=0)
  x, y = inputs_NxC - x_mean[None, :], targets_NxC - y_mean[None, :]
  gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
  kernel = np.linalg.solve(gram, x.T @ y / len(x))
  return kernel.astype(np.float32), (y_mean - x_mean @ kernel).astype(np.float32)


def fit_prior(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fits and stores the text prior; returns and stores what it does to held-out pairs."""
  from melody_jax.models import mulan
  from melody_jax.tasks.mulan import MuLanTask

  path = bundle.path_of(config.bundle, "mulan")
  model_config, params = bundle.load_model(config.bundle, "mulan", mulan.MuLanConfig)
  with_text = jax.device_put(mulan.with_text_body(params, model_config))
  config = config.copy_and_resolve_references().unlock()
  config.model = dataclasses.asdict(model_config)  # the task and its tokeniser read it

  @jax.jit
  def pairs(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    text = mulan.embed_text(params, model_config, batch["text_ids"], batch["text_mask"])
    return text, mulan.embed_music(params, model_config, batch["audio"])

  def collect(split: str, windows: int) -> tuple[np.ndarray, np.ndarray]:
    source = make_source(config, MuLanTask(config), split)
    made = [pairs(with_text, next(source)) for _ in range(-(-windows // config.train.batch_size))]
    text, music = (np.concatenate([np.asarray(m[i]) for m in made]) for i in (0, 1))
    return text, music

  kernel, offset = fit_linear(*collect(config.data.split, config.windows), config.ridge)
  text, music = collect(config.data.eval_split, min(config.eval_windows, config.windows // 4))
  moved = text @ kernel + offset[None, :]
  moved /= np.linalg.norm(moved, axis=1, keepdims=True)
  report = {
    "pairs": len(text),
    "cosine_without": float(np.mean(np.sum(text * music, axis=1))),
    "cosine_with": float(np.mean(np.sum(moved * music, axis=1))),
  }
  bundle.update(path, {"prior": {"kernel": kernel, "offset": offset}}, {"prior_report": report})
  print(
    f"{path}: on {len(text)} validation pairs the cosine of caption and music is"
    f" {report['cosine_with']:.3f} through the prior, {report['cosine_without']:.3f} without"
  )
  return report


def fit_latents(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Measures and stores the scale of the latents; returns and stores the share that clips."""
  codec = Codec.load(config.bundle, fitted=False)
  means = _collect(
    lambda audio: codec.encode_mean(codec.params, audio),
    _batches(config, config.data.split, config.windows, True),
    "latents",
  )
  means = means.reshape(-1, means.shape[-1])
  center = np.asarray(means.mean(axis=0, dtype=np.float64), np.float32)
  sigma = np.asarray(means.std(axis=0, dtype=np.float64), np.float32)
  clipped = float((np.abs(means - center[None, :]) > 3.0 * sigma[None, :]).mean())
  path = bundle.path_of(config.bundle, "vae")
  report = {"frames": len(means), "clipped_share": clipped}
  bundle.update(
    path, {"latent_scale": {"center_D": center, "sigma_D": sigma}}, {"latents_report": report}
  )
  print(
    f"{path}: sigma of {len(sigma)} channels from {sigma.min():.3f} to {sigma.max():.3f}"
    f" over {len(means)} frames, {clipped:.2%} of values clip"
  )
  return report


def fit_quantizer(config: ml_collections.ConfigDict) -> None:
  """Runs the fit that `config.quantizer` names."""
  fits = {
    "semantic": fit_semantic, "style": fit_style, "prior": fit_prior, "latents": fit_latents
  }  # fmt: skip
  fits[config.quantizer](config)


if __name__ == "__main__":
  cli.run(fit_quantizer)
