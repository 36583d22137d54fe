"""Optimisers from a config: what each steps, and how."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.config import training_config
from melody_jax.errors import UserError
from melody_jax.training.optimizer import MUON_RMS, make_optimizer

PARAMS = {
  "dense": {"kernel": jnp.ones((6, 4)), "bias": jnp.zeros(4)},
  "sru": {"kernel": jnp.ones((6, 3, 4)), "cell": jnp.ones((2, 4))},
  "conv": {"kernel": jnp.ones((7, 6, 4))},
  "picture_conv": {"kernel": jnp.ones((3, 3, 5, 4))},
  "layers": {"layer": {"kernel": jnp.ones((3, 6, 4))}},
  "table": {"embedding": jnp.ones((8, 4))},
}


def first_step(**settings):
  config = training_config("dpd", "tiny").optimizer
  config.update(learning_rate=1.0, warmup_steps=0, schedule="constant", clip_norm=1e9, **settings)
  optimizer = make_optimizer(config, 10)
  leaves, tree = jax.tree.flatten(PARAMS)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  gradients = tree.unflatten(
    [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
  )
  updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
  return gradients, updates


def orthogonal(update):
  """How far the singular values of a step are from one another, largest over smallest."""
  values = np.linalg.svd(np.asarray(update), compute_uv=False)
  return values.max() / values.min()


def test_muon_steps_matrices_in_orthogonal_directions():
  gradients, updates = first_step(name="muon")
  matrices = [updates["dense"]["kernel"], updates["conv"]["kernel"].reshape(42, 4)]
  matrices += [updates["sru"]["kernel"][:, i] for i in range(3)]
  matrices.append(updates["picture_conv"]["kernel"].reshape(45, 4))
  matrices += list(updates["layers"]["layer"]["kernel"])
  for matrix in matrices:
    assert orthogonal(matrix) < 2.0
    rms = float(jnp.sqrt(jnp.mean(jnp.square(matrix))))
    assert 0.5 * MUON_RMS < rms < 1.5 * MUON_RMS
  # What is no map between spaces is stepped by Adam: all alike, by the sign of its gradient.
  for module, name in (("dense", "bias"), ("sru", "cell"), ("table", "embedding")):
    update = np.asarray(updates[module][name])
    np.testing.assert_array_equal(np.sign(update), -np.sign(gradients[module][name]))
    np.testing.assert_allclose(np.abs(update), np.abs(update).max(), rtol=1e-3)


def test_adamw_is_the_default():
  gradients, updates = first_step()
  for gradient, update in zip(jax.tree.leaves(gradients), jax.tree.leaves(updates), strict=True):
    np.testing.assert_allclose(update, -np.sign(gradient), atol=1e-3)


def test_an_unknown_rule_is_refused():
  with pytest.raises(UserError, match=r"optimizer\.name is 'sgd'"):
    first_step(name="sgd")
