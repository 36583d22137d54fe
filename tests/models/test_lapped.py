"""The lapped transform, and its bins as gains and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.models import lapped

EDGES = (0, 1, 2, 4, 8, 24)


def transform(audio, hop):
  frames = np.lib.stride_tricks.sliding_window_view(audio, 2 * hop)[::hop]
  return jnp.asarray(frames @ lapped.mdct_basis(hop), jnp.float32)[None]


def test_mdct_reconstructs_perfectly():
  hop = 24
  x = np.random.default_rng(0).normal(size=hop * 12).astype(np.float32)
  y = np.asarray(lapped.overlap_add(transform(x, hop) @ lapped.mdct_basis(hop).T, hop))[0]
  np.testing.assert_allclose(y[hop:-hop], x[hop:-hop], atol=1e-5)


def test_joining_inverts_splitting():
  bins = 0.3 * jax.random.normal(jax.random.key(0), (2, 7, 24))
  gains, shapes = lapped.split_gains(bins, EDGES)
  assert gains.shape == (2, 7, 5) and shapes.shape == bins.shape
  np.testing.assert_allclose(lapped.join_gains(gains, shapes, EDGES), bins, atol=1e-5)


def test_gains_follow_the_level_and_shapes_do_not():
  bins = transform(np.random.default_rng(1).normal(size=24 * 40) * 0.1, 24)
  (quiet, quiet_shapes), (loud, loud_shapes) = (
    lapped.split_gains(bins * level, EDGES) for level in (1.0, 4.0)
  )
  np.testing.assert_allclose(loud - quiet, np.log(4.0) / lapped.GAIN_SCALE, atol=0.05)
  np.testing.assert_allclose(loud_shapes, quiet_shapes, atol=0.2)


def test_the_gain_of_a_held_tone_hardly_moves():
  hop, rate = 240, 24_000
  tone = 0.2 * np.sin(2 * np.pi * 1003.0 / rate * np.arange(rate))
  bins = transform(tone, hop)
  edges = (0, 18, 22, hop)  # 50 Hz a bin: the tone lies in the second band
  gains, shapes = lapped.split_gains(bins, edges)
  in_decibels = np.asarray(gains[0, 2:-2, 1]) * lapped.GAIN_SCALE * 20 / np.log(10)
  assert np.std(in_decibels) < 0.5
  assert float(jnp.max(jnp.abs(shapes[0, :, 18:22]))) < 2 * np.sqrt(4)


def test_silence_is_finite_with_gradients():
  def loss(bins):
    gains, shapes = lapped.split_gains(bins, EDGES)
    return jnp.sum(gains) + jnp.sum(lapped.join_gains(gains, shapes, EDGES))

  value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 4, 24)))
  assert np.isfinite(value) and np.isfinite(gradient).all()


def test_a_wild_gain_cannot_overflow():
  assert np.isfinite(lapped.join_gains(jnp.full((1, 1, 5), 1e6), jnp.ones((1, 1, 24)), EDGES)).all()


@pytest.mark.parametrize("edges", [(), (0,), (1, 4), (0, 4, 4)])
def test_edges_must_rise_from_zero(edges):
  with pytest.raises(ValueError, match="rise from 0"):
    lapped.band_matrix(edges)
