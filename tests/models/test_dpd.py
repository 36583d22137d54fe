"""Dual-path diffusion network: conditioning and sizes."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.denoisers import choice
from melody_jax.diffusion import preconditioning
from melody_jax.errors import UserError
from melody_jax.metrics.diffusion import linear_predictor_gain
from melody_jax.models import dpd
from tests.configs import load_config

CONFIG = choice.config_of(load_config("dpd", "tiny").model)
LENGTH, TOKENS = 21, 11  # no multiple of anything


def jitted(config, method=None):
  """(params, *inputs) -> output; one program: one operation after the other takes a GB more."""
  model = dpd.DPD(config)
  return jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs, method=method))


def born(config):
  return nn.meta.unbox(jax.jit(lambda key: dpd.init(config, key))(jax.random.key(0)))


@pytest.fixture(scope="module")
def network():
  """(params, jitted apply); parameters moved off their start, so that v_hat is not near 0."""
  params = born(CONFIG)
  params["out"]["kernel"] = params["out"]["kernel"] * 10.0
  return params, jitted(CONFIG)


@pytest.fixture(scope="module")
def inputs():
  keys = jax.random.split(jax.random.key(1), 3)
  return (
    jax.random.normal(keys[0], (3, LENGTH, CONFIG.latent_dim)),
    jax.random.uniform(keys[1], (3, LENGTH), maxval=np.pi / 2),
    jax.random.randint(keys[2], (3, TOKENS), 0, CONFIG.vocab_size),
    jnp.array([True, False, True]),
  )


def test_rows_without_condition_do_not_see_the_tokens(network, inputs):
  params, apply = network
  z, delta, tokens, conditional = inputs
  v = apply(params, z, delta, tokens, conditional)
  changed = apply(params, z, delta, (tokens + 7) % CONFIG.vocab_size, conditional)
  assert v.shape == z.shape and v.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(v)))
  np.testing.assert_array_equal(v[1], changed[1])
  assert float(jnp.min(jnp.max(jnp.abs(v - changed), axis=(1, 2))[np.array([0, 2])])) > 1e-3
  # One pass of mixed rows equals the passes of one kind.
  np.testing.assert_allclose(v[1], apply(params, z, delta, None)[1], atol=2e-5)
  alone = apply(params, z[:1], delta[:1], tokens[:1])
  np.testing.assert_allclose(v[:1], alone, atol=2e-5)
  # Both in one pass: the same, for less work.
  with_tokens, without = jitted(CONFIG, "with_and_without")(params, z, delta, tokens)
  np.testing.assert_allclose(with_tokens, apply(params, z, delta, tokens), atol=2e-5)
  np.testing.assert_allclose(without, apply(params, z, delta, None), atol=2e-5)


def test_the_angle_of_every_frame_matters(network, inputs):
  params, apply = network
  z, delta, tokens, conditional = inputs
  v = apply(params, z, delta, tokens, conditional)
  changed = apply(params, z, delta.at[:, -5:].set(0.0), tokens, conditional)
  assert bool(jnp.all(jnp.max(jnp.abs(v - changed), axis=-1) > 0))


def test_remat_and_bfloat16_agree(inputs, network):
  params, apply = network
  z, delta, tokens, conditional = inputs
  half = dpd.DPD(dataclasses.replace(CONFIG, dtype="bfloat16", remat=True))
  v = jax.jit(half.apply)({"params": params}, z, delta, tokens, conditional)
  assert v.dtype == jnp.float32
  np.testing.assert_allclose(v, apply(params, z, delta, tokens, conditional), atol=0.3)
  given = {"params": params}, z, delta, tokens
  halves = jax.eval_shape(lambda: half.apply(*given, method="with_and_without"))
  assert [x.shape for x in halves] == [v.shape, v.shape]


FAST = dataclasses.replace(CONFIG, norms="inputs", edge_kernel=3, filter_taps=5)


def test_residual_stream_and_filter(inputs):
  z, delta, tokens, conditional = inputs
  params = born(FAST)
  apply = jax.jit(dpd.DPD(FAST).apply)
  v = apply({"params": params}, z, delta, tokens, conditional)
  assert v.shape == z.shape and bool(jnp.all(jnp.isfinite(v)))
  with_tokens, without = jitted(FAST, "with_and_without")(params, z, delta, tokens)
  np.testing.assert_allclose(with_tokens[0], v[0], atol=2e-5)
  np.testing.assert_allclose(without, apply({"params": params}, z, delta, None), atol=2e-5)
  # The filter is nothing at birth, and then it is what its taps say, channel by channel.
  kernel = jnp.zeros_like(params["filter"]["kernel"])
  assert not kernel.any() and not params["filter"]["kernel"].any()
  taps = np.zeros((5, CONFIG.latent_dim), np.float32)
  taps[3, 1] = 0.5  # of the frame after, in the second channel
  filtered = {**params, "filter": {"kernel": kernel, "bias": jnp.asarray(taps.reshape(-1))}}
  added = apply({"params": filtered}, z, delta, tokens, conditional) - v
  scale_in, _, scale_out = preconditioning(delta, FAST.latent_std)
  after = np.pad(z * scale_in[..., None], ((0, 0), (0, 1), (0, 0)))[:, 1:, 1]
  np.testing.assert_allclose(added[..., 1], 0.5 * after * scale_out, atol=1e-5)
  np.testing.assert_allclose(added[..., 0], 0.0, atol=1e-6)


def test_attention_in_the_fine_path_stays_inside_segments():
  layer = dpd.FineAttention(CONFIG)
  x_KxBxSxW = jax.random.normal(jax.random.key(0), (8, 2, 3, CONFIG.width))
  params = jax.jit(layer.init)(jax.random.key(1), x_KxBxSxW)
  apply = jax.jit(layer.apply)
  changed = apply(params, x_KxBxSxW.at[5, 0, 1].add(1.0)) - apply(params, x_KxBxSxW)
  moved = jnp.abs(changed).max(axis=-1)
  assert bool(jnp.all(moved[:, 0, 1] > 1e-5))
  np.testing.assert_array_equal(moved.at[:, 0, 1].set(0.0), jnp.zeros_like(moved))
  config = dataclasses.replace(CONFIG, fine_path="attention")
  block = jax.eval_shape(lambda key: dpd.init(config, key), jax.random.key(0))["block_1"]
  assert {"attention_0", "attention_1"} <= set(block) and "sru_0" not in block


@pytest.mark.parametrize(
  "change", [{"norms": "none"}, {"filter_taps": 4}, {"edge_kernel": 2}, {"fine_path": "lstm"}]
)
def test_options_that_do_not_exist(change):
  with pytest.raises((ValueError, UserError), match=next(iter(change))):
    dataclasses.replace(CONFIG, **change)


def test_every_block_starts_different(network):
  params, _ = network
  first, second = (params[f"block_{i}"]["sru_0"]["kernel"] for i in (1, 2))
  assert first.shape == second.shape
  assert float(jnp.max(jnp.abs(first - second))) > 0.1


def test_init_has_the_shapes_and_axes_of_the_network():
  def shapes(tree):
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    return {jax.tree_util.keystr(path): (x.names, x.value.shape) for path, x in leaves}

  model = dpd.DPD(CONFIG)
  whole = jax.eval_shape(
    lambda key: model.init(
      key, jnp.zeros((1, 8, CONFIG.latent_dim)), jnp.zeros((1, 8)), jnp.zeros((1, 4), int)
    ),
    jax.random.key(0),
  )["params"]
  assert shapes(jax.eval_shape(lambda key: dpd.init(CONFIG, key), jax.random.key(0))) == shapes(
    whole
  )


def test_cross_attention_begins_at_the_token_of_the_same_time():
  config = dataclasses.replace(CONFIG, width=192, n_heads=4)
  model = dpd.CrossAttention(config)
  t = 40
  positions = (np.arange(t) + 0.5)[None].astype(np.float32)
  x = jax.random.normal(jax.random.key(0), (1, 1, t, 192))
  tokens = jax.random.normal(jax.random.key(1), (1, t, 192))
  params = nn.meta.unbox(model.init(jax.random.key(2), x, dpd.Condition(tokens), positions))
  effect = jax.jacobian(
    lambda tokens: model.apply(params, x, dpd.Condition(tokens), positions)[0, 0, 20].mean()
  )(tokens)
  by_token = np.linalg.norm(np.asarray(effect)[0], axis=-1)
  near = by_token[18:23].sum()
  assert near > 3 * (by_token.sum() - near)


def test_preconditioned_network_starts_as_the_linear_predictor(inputs):
  z, delta, tokens, _ = inputs
  config = dataclasses.replace(CONFIG, latent_std=0.5)
  params = born(config)
  params["out"]["kernel"] = jnp.zeros_like(params["out"]["kernel"])
  v = jitted(config)(params, z, delta, tokens)
  gain = linear_predictor_gain(jnp.full((CONFIG.latent_dim,), 0.25), delta)
  np.testing.assert_allclose(v, gain * z, atol=1e-5)


def test_sizes_that_cannot_work_are_refused():
  with pytest.raises(ValueError, match="odd"):
    dataclasses.replace(CONFIG, segment_size=7)
  with pytest.raises(ValueError, match="multiple of 2"):
    dataclasses.replace(CONFIG, width=34, n_heads=4)
