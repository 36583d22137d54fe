"""The training step: accumulation, and steps that are not finite."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from melody_jax.errors import UserError
from melody_jax.task import BaseTask
from melody_jax.training.state import TrainState
from melody_jax.training.step import make_train_step


class Regression(BaseTask):
  """y = x w; no random numbers, so that parts of a batch add up exactly."""

  def loss(self, params, batch, rng, step, train=True):
    del rng, step, train
    loss = jnp.mean(jnp.square(batch["x"] @ params["w"] - batch["y"]))
    return loss, {"loss": loss}


def run(accumulate, batch, ema_decay=0.5):
  config = ml_collections.ConfigDict(
    {"train": {"accumulate": accumulate, "batch_size": 8, "ema_decay": ema_decay}}
  )
  optimizer = optax.adam(0.1)
  params = {"w": jnp.ones((3,))}
  state = TrainState(
    jnp.zeros((), jnp.int32), params, optimizer.init(params), params,
    jax.random.key_data(jax.random.key(0)),
  )  # fmt: skip
  return jax.jit(make_train_step(config, Regression(config), {"": optimizer}))(state, batch)


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  return {"x": jnp.asarray(rng.normal(size=(8, 3))), "y": jnp.asarray(rng.normal(size=8))}


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_of_a_batch_add_up_to_it(batch, parts):
  (whole, metrics), (state, part_metrics) = run(1, batch), run(parts, batch)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  np.testing.assert_allclose(part_metrics["loss"], metrics["loss"], rtol=1e-6)
  np.testing.assert_allclose(part_metrics["grad_norm"], metrics["grad_norm"], rtol=1e-5)


def test_parts_must_divide_the_batch(batch):
  with pytest.raises(UserError, match="train.accumulate 3 must divide"):
    run(3, batch)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_only_the_count(batch, value):
  before, _ = run(1, batch)
  poisoned = batch | {"y": batch["y"].at[2].set(value)}
  state, metrics = run(1, poisoned)
  assert float(metrics["finite"]) == 0.0 and int(state.step) == 1
  np.testing.assert_array_equal(state.params["w"], jnp.ones((3,)))
  np.testing.assert_array_equal(state.ema["w"], jnp.ones((3,)))
  assert int(state.opt_state[0].count) == 0
  assert not np.array_equal(before.params["w"], jnp.ones((3,)))
