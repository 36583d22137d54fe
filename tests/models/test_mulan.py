"""MuLan: sizes, invariances, and the frozen body."""

import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mulan as configs
from melody_jax import sharding
from melody_jax.errors import UserError
from melody_jax.models import mulan
from melody_jax.models.layers import config_from


def _config(preset):
  return config_from(mulan.MuLanConfig, configs.get_config(preset).model)


@pytest.fixture(scope="module")
def tiny():
  config = _config("tiny")
  params = nn.unbox(jax.jit(lambda rng: mulan.init_params(rng, config))(jax.random.key(0)))
  return config, params


def test_paper_size_within_two_percent():
  config = _config("paper")
  shapes = jax.eval_shape(lambda rng: mulan.init_params(rng, config), jax.random.key(0))
  total = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  print(f"MuLan at paper size: {total / 1e6:.1f} M parameters")
  assert abs(total / 195.3e6 - 1) < 0.02


@pytest.mark.parametrize("preset", ["paper", "nano", "tiny"])
def test_every_parameter_has_known_axes(preset):
  config = _config(preset)
  boxed = jax.eval_shape(lambda rng: mulan.init_params(rng, config, True), jax.random.key(0))
  leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  for leaf in leaves:
    assert isinstance(leaf, nn.LogicallyPartitioned)
    assert len(leaf.names) == len(leaf.value.shape)
    sharding.mesh_axes_of(leaf.names)


def test_a_frozen_body_is_not_a_trained_parameter():
  config = _config("nano")
  shapes = jax.eval_shape(lambda rng: mulan.init_params(rng, config), jax.random.key(0))
  assert mulan.TEXT_BODY not in shapes
  with pytest.raises(ValueError, match="with_text_body"):
    mulan.embed_text({}, config, np.zeros((1, 64), np.int32), np.ones((1, 64), bool))


def test_misspelt_size_raises():
  model = configs.get_config("tiny").model
  model.music_widht = 3
  with pytest.raises(UserError, match="music_widht"):
    config_from(mulan.MuLanConfig, model)


def test_windows_cover_a_clip():
  clip = np.arange(25, dtype=np.float32)[None]
  windows = np.asarray(mulan.windows_of(clip, 10))
  np.testing.assert_array_equal(windows[0, :, 0], [0, 5, 10, 15])
  assert windows[0, -1, -1] == 24
  repeated = mulan.windows_of(clip[:, :4], 10)[0, 0]
  np.testing.assert_array_equal(repeated, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
  np.testing.assert_array_equal(mulan.windows_of(clip[:, :10], 10)[0], clip[:, :10])


def test_embeddings_are_unit_and_rows_are_independent(tiny):
  config, params = tiny
  rng = np.random.default_rng(0)
  audio = 0.1 * rng.normal(size=(3, config.window_samples)).astype(np.float32)
  embed = jax.jit(lambda a: mulan.embed_music(params, config, a))
  music = np.asarray(embed(audio))
  assert music.shape == (3, 128)
  np.testing.assert_allclose(np.linalg.norm(music, axis=1), 1.0, atol=1e-5)
  np.testing.assert_allclose(embed(audio[::-1])[0], music[2], atol=1e-5)

  ids = rng.integers(0, 30_000, (3, 16)).astype(np.int32)
  mask = np.arange(16)[None] < np.array([16, 5, 2])[:, None]
  embed_text = jax.jit(lambda i, m: mulan.embed_text(params, config, i, m))
  text = np.asarray(embed_text(ids, mask))
  np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1.0, atol=1e-5)
  np.testing.assert_allclose(embed_text(np.where(mask, ids, 9), mask), text, atol=1e-5)


def test_bf16_is_close_to_float32(tiny):
  config, params = tiny
  audio = 0.1 * np.random.default_rng(0).normal(size=(2, config.window_samples))
  half = dataclasses.replace(config, dtype="bfloat16")
  audio = audio.astype(np.float32)
  a = mulan.embed_music(params, config, audio)
  b = mulan.embed_music(params, half, audio)
  assert b.dtype == jnp.float32
  assert float(jnp.min(jnp.sum(a * b, axis=1))) > 0.99
