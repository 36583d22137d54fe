"""UNet denoisers: what they hear, where they look, and their sizes beside the DPD's."""

import dataclasses
import json
import math
import runpy

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.denoisers import choice, unet
from melody_jax.errors import UserError
from melody_jax.places.config_pages import load
from melody_jax.training.flops import matmul_flops

LENGTH, TOKENS = 21, 11  # no multiple of anything


def config(name, preset="tiny", **own):
  model = load("dpd", preset).model
  model.denoiser = name
  if own:
    model[name].update(own)
  return choice.config_of(model)


def jitted(c, method=None):
  model = choice.network_of(c)
  return jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs, method=method))


@pytest.fixture(scope="module", params=choice.UNETS)
def network(request):
  """(config, params, jitted apply); parameters moved off their start, so that v_hat is not 0."""
  c = config(request.param)
  params = nn.meta.unbox(jax.jit(lambda key: choice.init(c, key))(jax.random.key(0)))
  params["out"]["kernel"] = params["out"]["kernel"] * 10.0
  return c, params, jitted(c)


@pytest.fixture(scope="module")
def inputs():
  keys = jax.random.split(jax.random.key(1), 3)
  return (
    jax.random.normal(keys[0], (3, LENGTH, 8)),
    jax.random.uniform(keys[1], (3, LENGTH), maxval=np.pi / 2),
    jax.random.randint(keys[2], (3, TOKENS), 0, 16),
    jnp.array([True, False, True]),
  )


def test_rows_without_condition_do_not_see_the_tokens(network, inputs):
  c, params, apply = network
  z, delta, tokens, conditional = inputs
  v = apply(params, z, delta, tokens, conditional)
  changed = apply(params, z, delta, (tokens + 7) % c.vocab_size, conditional)
  assert v.shape == z.shape and v.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(v)))
  np.testing.assert_array_equal(v[1], changed[1])
  assert float(jnp.min(jnp.max(jnp.abs(v - changed), axis=(1, 2))[np.array([0, 2])])) > 1e-3
  # One pass of mixed rows equals the passes of one kind, and so does the pass of both.
  heard, unheard = apply(params, z, delta, tokens), apply(params, z, delta, None)
  np.testing.assert_allclose(v, jnp.where(conditional[:, None, None], heard, unheard), atol=2e-5)
  both = jitted(c, "with_and_without")(params, z, delta, tokens)
  np.testing.assert_allclose(both[0], heard, atol=2e-5)
  np.testing.assert_allclose(both[1], unheard, atol=2e-5)


def test_the_angle_of_a_frame_acts_where_the_frame_is(network, inputs):
  _, params, apply = network
  z, delta, tokens, _ = inputs
  moved = jnp.abs(
    apply(params, z, delta, tokens) - apply(params, z, delta.at[:, -5:].set(0.0), tokens)
  ).max(axis=-1)
  assert bool(jnp.all(moved[:, -5:] > 1e-3))
  assert float(moved[:, -5:].mean()) > 3 * float(moved[:, :5].mean())


def test_frames_do_not_know_how_the_window_was_filled_up(network, inputs):
  """21 frames and the same 21 with the zeros that are put behind them anyway: the same velocity."""
  c, params, apply = network
  z, delta, tokens, _ = inputs
  tail = -LENGTH % c.factor
  longer = jnp.pad(z, ((0, 0), (0, tail), (0, 0))), jnp.pad(delta, ((0, 0), (0, tail)), mode="edge")
  assert tail
  np.testing.assert_allclose(
    apply(params, *longer, tokens)[:, :LENGTH], apply(params, z, delta, tokens), atol=2e-5
  )


def test_recomputation_and_bfloat16_change_no_shape(inputs):
  z, delta, tokens, conditional = inputs
  c = dataclasses.replace(config("unet_2d"), dtype="bfloat16", remat=True)
  params = jax.eval_shape(lambda: nn.meta.unbox(choice.init(c, jax.random.key(0))))
  v = jax.eval_shape(unet.UNet(c).apply, {"params": params}, z, delta, tokens, conditional)
  assert v.shape == z.shape and v.dtype == jnp.float32


def test_attention_begins_at_the_token_of_the_same_time():
  c = config("unet_1d", width=96, n_heads=4, embed_width=192)
  model, t = unet.AttentionBlock(c), 40
  x = jax.random.normal(jax.random.key(0), (1, t, 1, 192))
  tokens = jax.random.normal(jax.random.key(1), (1, t, 192))
  positions = (np.arange(t) + 0.5).astype(np.float32)
  params = nn.meta.unbox(model.init(jax.random.key(2), x, tokens, positions))
  effect = jax.grad(lambda tokens: model.apply(params, x, tokens, positions)[0, 20].sum())(tokens)
  by_token = np.linalg.norm(np.asarray(effect)[0], axis=-1)
  near = by_token[18:23].sum()
  assert near > 3 * (by_token.sum() - near)


@pytest.mark.parametrize(
  "own, message",
  [
    ({"attention": (1,)}, "one number a level"),
    ({"n_heads": 3}, "n_heads"),
    ({"bands": 3}, "divide latent_dim"),
    ({"multipliers": (1, 1, 1, 1), "attention": (0, 0, 0, 0)}, "halved"),
    ({"blocks": 0}, "at least 1"),
  ],
)
def test_sizes_that_cannot_work_are_refused(own, message):
  with pytest.raises(UserError, match=message):
    config("unet_2d", **own)


def size_of(c, seconds=10):
  """(parameters, FLOPs of one pass over ten seconds), from shapes alone."""
  params = nn.meta.unbox(jax.eval_shape(lambda key: choice.init(c, key), jax.random.key(0)))
  frames = round(seconds * 25 * c.frames_per_token)

  def of(dtype, *shape):
    return jax.ShapeDtypeStruct((1, *shape), dtype)

  flops = matmul_flops(
    lambda p, *inputs: choice.network_of(c).apply({"params": p}, *inputs),
    params, of("float32", frames, c.latent_dim), of("float32", frames), of("int32", 25 * seconds),
  )  # fmt: skip
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params)), flops


@pytest.mark.parametrize("preset, count", [("nano", 5), ("paper", 4)])
def test_the_sweep_compares_networks_of_equal_size(repository, preset, count):
  """Every UNet has the DPD's parameters within 2 %, or its FLOPs a pass within 4 %."""
  page = runpy.run_path(str(repository / "configs" / "sweeps" / "denoisers.py"))
  networks = {json.dumps({k: v for k, v in run.items() if k.startswith("model.")})
              for run in page["get_sweep"](preset)}  # fmt: skip
  assert len(networks) == count
  sizes = {}
  for network in sorted(networks):
    model = load("dpd", preset)
    model.update_from_flattened_dict(json.loads(network))
    sizes[network] = size_of(choice.config_of(model.model))
  params, flops = sizes.pop('{"model.denoiser": "dpd"}')
  for network, (of_params, of_flops) in sizes.items():
    print(f"{network}: {of_params / 1e6:.2f} M, {of_flops / 1e9:.2f} GFLOP")
    if "width" in network:
      assert of_flops == pytest.approx(flops, rel=0.04)
    else:
      assert of_params == pytest.approx(params, rel=0.02)
