"""Training step of the DPD: finite, deterministic, and equal to what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.task import make_task
from melody_jax.training.state import make_init
from melody_jax.training.step import make_train_step
from tests.configs import load_config

# Loss of the first and the second step; changes only where the maths or the draws change.
GOLDEN = (0.570286, 0.581001)


@pytest.fixture(scope="module")
def tiny():
  config = load_config("dpd", "tiny")
  config.window_seconds = 0.64
  config.model.vocab_size = 1024  # the golden numbers are of this table
  task = make_task(config)
  init, optimizer, _ = make_init(config, task)
  features = task.input_features()
  rng = np.random.default_rng(0)
  batch = {
    "latents": jnp.asarray(rng.normal(size=(4, *features["latents"].shape)), jnp.float32) / 3,
    "semantic_tokens": jnp.asarray(
      rng.integers(0, 1024, (4, *features["semantic_tokens"].shape)), jnp.int32
    ),
  }
  state = jax.jit(init)(jax.random.key(0))
  return config, task, state, batch, jax.jit(make_train_step(config, task, optimizer))


def test_a_window_of_fewer_frames_than_chunks_is_refused():
  config = load_config("dpd", "tiny")
  config.window_seconds = 0.06  # three frames
  with pytest.raises(UserError, match=r"config.model.chunks.* 3"):
    make_task(config)


def test_features_follow_the_window(tiny):
  _, task, *_ = tiny
  features = task.input_features()
  assert features["latents"].shape == (32, 8) and features["latents"].dtype == "float32"
  assert features["semantic_tokens"].shape == (16,) and features["semantic_tokens"].dtype == "int32"


def test_golden_steps(tiny):
  _, _, state, batch, step = tiny
  losses = []
  for _ in range(2):
    state, metrics = step(state, batch)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    losses.append(float(metrics["loss"]))
  np.testing.assert_allclose(losses, GOLDEN, rtol=1e-3)


def test_evaluation_compares_with_other_tokens(tiny):
  _, task, state, batch, _ = tiny
  evaluate = jax.jit(task.loss, static_argnames="train")
  loss, metrics = evaluate(
    state.params, batch, jax.random.key(0), jnp.zeros((), jnp.int32), train=False
  )
  assert {"loss", "loss_shuffled", "error_ratio"} <= set(metrics)
  assert np.isfinite(float(metrics["si_snr_gain"]))
  buckets = [float(metrics[f"loss_angle_{i}"]) for i in range(4)]
  np.testing.assert_allclose(np.mean(buckets), float(loss), rtol=1e-5)


def test_tokens_of_another_row_or_none(tiny):
  """ "shuffled" hears what the row before has; "none" hears nothing, in training and evaluation."""
  config, task, state, batch, _ = tiny
  rolled = batch | {"semantic_tokens": jnp.roll(batch["semantic_tokens"], 1, axis=0)}

  def losses(task, batch):
    evaluate = jax.jit(task.loss, static_argnames="train")
    step = jnp.zeros((), jnp.int32)
    return [
      float(evaluate(state.params, batch, jax.random.key(0), step, train=train)[0])
      for train in (True, False)
    ]

  def hearing(tokens):
    changed = config.copy_and_resolve_references()
    changed.conditioning.tokens = tokens
    return make_task(changed)

  right = losses(task, batch)
  np.testing.assert_allclose(losses(hearing("shuffled"), batch), losses(task, rolled), rtol=1e-5)
  assert not np.allclose(losses(task, rolled), right, rtol=1e-5)
  none = hearing("none")
  np.testing.assert_allclose(losses(none, batch), losses(none, rolled), rtol=1e-6)
  with pytest.raises(UserError, match="conditioning.tokens"):
    hearing("wrong")
