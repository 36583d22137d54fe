"""The command that fits quantisers: k-means on features, and a whole tiny run of both modes."""

import json

from flax import linen as nn
import jax
import numpy as np
import pytest

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.fit import fit
from melody_jax.fitting.prior import fit_linear
from melody_jax.fitting.semantic import bigram_cross_entropy, fit_kmeans
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.models import mulan
from melody_jax.task import make_task
from tests.configs import load_config, waveform_vae


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  root = tmp_path_factory.mktemp("corpus")
  rng = np.random.default_rng(0)
  for split in ("train", "validation"):
    writer = ShardWriter(root, split, 0, 1, {"audio": Feature(24_000, "int16")})
    for i in range(3):
      pcm = (3000 * rng.normal(size=12 * 24_000)).astype(np.int16)
      writer.write(
        {"id": f"{split}/{i}", "track": f"{split}/{i}", "captions": ["slow piano"]}, {"audio": pcm}
      )
    writer.close()
  return root


def exported(directory, config) -> None:
  """What melody_jax.export writes for an untrained model."""
  task = make_task(config)
  params = jax.device_get(nn.meta.unbox(jax.jit(task.init)(jax.random.key(0))))
  bundle.save(
    bundle.path_of(directory, config.task),
    task.export_params(params),
    {
      "task": config.task,
      "preset": "tiny",
      "step": 0,
      "dtype": "float16",
      "model_config": json.loads(config.model.to_json_best_effort()),
    },
    "float16",
  )


def test_kmeans_finds_clusters_of_very_different_scales():
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(12, 3)) * np.array([100.0, 1.0, 0.01])[None, :]
  which = rng.integers(0, 12, 4000)
  points = centres[which] + rng.normal(size=(4000, 3)) * np.array([1.0, 0.01, 1e-4])[None, :]
  # A tiny spread must not be lost to the floor under the standard deviation.
  kmeans, report = fit_kmeans(
    points.astype(np.float32) * 100.0, 12, jax.random.key(0), passes=10, points=500
  )
  whitened = (points * 100.0 - kmeans["mean"][None, :]) / kmeans["std"][None, :]
  tokens = np.argmin(((whitened[:, None] - kmeans["centroids"][None]) ** 2).sum(-1), axis=1)
  assert len(np.unique(tokens)) == 12 and report["distortion"] < 0.05
  purity = sum(np.bincount(tokens[which == c]).max() for c in range(12)) / 4000
  assert purity > 0.9


def test_too_few_frames_is_a_user_error():
  with pytest.raises(UserError, match="config.windows"):
    fit_kmeans(np.zeros((3, 2), np.float32), 4, jax.random.key(0), 1, 8)


def test_bigram_cross_entropy_knows_what_follows():
  cycle = np.tile(np.arange(10), 200).reshape(20, 100)
  assert bigram_cross_entropy(cycle, cycle, 10) < 0.1
  noise = np.random.default_rng(0).integers(0, 10, (20, 500))
  assert abs(bigram_cross_entropy(noise, noise, 10) - np.log(10)) < 0.1


def test_semantic_fit_adds_centres_to_the_bundle(corpus, tmp_path, capsys):
  model = load_config("wav2vec", "tiny").model
  exported(tmp_path, load_config("wav2vec", "tiny"))
  width = model.teacher_size if model.tokens_from == "teacher" else model.width
  config = load_config("fit", "semantic_tiny")
  config.bundle, config.data.path = str(tmp_path), str(corpus)
  fit(config)
  params, metadata = bundle.load(tmp_path / "wav2vec.safetensors")
  assert params["kmeans"]["centroids"].shape == (16, width)
  assert params["kmeans"]["mean"].shape == params["kmeans"]["std"].shape == (width,)
  assert metadata["task"] == "wav2vec" and metadata["kmeans_report"]["centres_used"] <= 16
  assert "of 16 centres used" in capsys.readouterr().out


def test_style_fit_adds_codebooks_to_the_bundle(corpus, tmp_path, capsys):
  exported(tmp_path, load_config("mulan", "tiny"))
  config = load_config("fit", "style_tiny")
  config.bundle, config.data.path = str(tmp_path), str(corpus)
  fit(config)
  params, metadata = bundle.load(tmp_path / "mulan.safetensors")
  assert params["rvq"]["codebooks"].shape == (12, 8, 128)
  assert len(metadata["rvq_report"]["utilisation"]) == 12
  assert "level 2" in capsys.readouterr().out


@pytest.mark.parametrize("clip", [True, False])
def test_latents_are_scaled_by_the_prior_or_by_the_corpus(corpus, tmp_path, clip):
  """With `clip_latents` the decoder was trained on clip(z / 3); else the corpus sets the scale."""
  vae = waveform_vae()
  vae.model.clip_latents = clip
  exported(tmp_path, vae)
  config = load_config("fit", "latents_tiny")
  config.bundle, config.data.path, config.window_seconds = str(tmp_path), str(corpus), 0.1
  fit(config)
  scale = bundle.load(tmp_path / "vae.safetensors")[0]["latent_scale"]
  whole = np.array_equal(scale["center_D"], np.zeros(4)) and np.array_equal(
    scale["sigma_D"], np.ones(4)
  )
  assert whole == clip


def test_linear_fit_finds_the_map_and_ridge_shrinks_it():
  rng = np.random.default_rng(0)
  x, kernel, offset = rng.normal(size=(500, 3)), rng.normal(size=(3, 3)), np.array([1.0, -2.0, 3.0])
  y = x @ kernel + offset[None, :]
  found = fit_linear(x, y, 0.0)
  np.testing.assert_allclose(found[0], kernel, atol=1e-5)
  np.testing.assert_allclose(found[1], offset, atol=1e-5)
  assert np.linalg.norm(fit_linear(x, y, 1.0)[0]) < 0.6 * np.linalg.norm(kernel)


def test_prior_fit_adds_a_map_that_prompts_go_through(corpus, tmp_path, capsys):
  model = load_config("mulan", "tiny")
  exported(tmp_path, model)
  config = load_config("fit", "prior_tiny")
  config.bundle, config.data.path = str(tmp_path), str(corpus)
  fit(config.lock())  # as the command line hands it over
  mulan_config, params = bundle.load_model(tmp_path, "mulan", mulan.MuLanConfig)
  assert "validation pairs" in capsys.readouterr().out
  arguments = (mulan_config, np.ones((1, 16), np.int32), np.ones((1, 16), bool))
  text = np.asarray(mulan.embed_text(params, *arguments))
  moved = text @ params["prior"]["kernel"] + params["prior"]["offset"][None, :]
  got = np.asarray(mulan.embed_prompt(params, *arguments))
  np.testing.assert_allclose(got, moved / np.linalg.norm(moved), atol=1e-5)
  assert np.abs(got - text).max() > 1e-3
  del params["prior"]
  np.testing.assert_array_equal(mulan.embed_prompt(params, *arguments), text)


def test_missing_model_is_a_user_error(corpus, tmp_path):
  config = load_config("fit", "semantic_tiny")
  config.bundle, config.data.path = str(tmp_path), str(corpus)
  with pytest.raises(UserError, match="no checkpoint"):
    fit(config)
