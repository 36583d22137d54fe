"""What decays and what stays, by name, in every model."""

import collections

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.config import training_config
from melody_jax.errors import UserError
from melody_jax.parameter_rules import DECAYS, decays, name_of
from melody_jax.task import TASKS, make_task
from melody_jax.training.optimizer import make_optimizer
from tests.configs import load_config

# Last parts of names, as the models have them: (what decays, what does not).
EXPECTED = {
  "mulan": ("kernel", "bias scale embedding positions cls distillation log_scale"),
  "wav2vec": (
    "kernel",
    "bias scale codebook mask_embedding layer_scale content_bias distance_bias mean var",
  ),
  "lm": ("kernel", "scale embedding"),
  "dpd": ("kernel", "bias scale cell embedding angle_ends"),
  "vae": ("kernel axes", "bias scale offset layer_scale"),
}


def shapes_of(name, preset):
  task = make_task(load_config(name, preset))
  return nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))


@pytest.mark.parametrize("preset", ["tiny", "paper"])
@pytest.mark.parametrize("name", TASKS)
def test_what_decays(name, preset):
  found = collections.defaultdict(set)
  for path, rule in jax.tree.leaves_with_path(decays(shapes_of(name, preset))):
    found[rule].add(name_of(path).rpartition("/")[2])
  print(f"{name}:{preset} decays {sorted(found[True])}, not {sorted(found[False])}")
  does, does_not = (set(names.split()) for names in EXPECTED[name])
  # Every model has norms or biases; HiFi-GAN has no norm, the LM no bias.
  assert "kernel" in found[True] and found[False] & {"scale", "bias"}
  # A preset may lack a part, but has none that nobody listed.
  assert found[True] <= does and found[False] <= does_not


def test_no_norm_or_bias_of_a_stack_decays():
  """Zero gradients: only decay moves a parameter."""
  params = {
    "layers": {"norm": {"scale": jnp.ones((3, 4))}, "dense": {"kernel": jnp.ones((3, 4, 4))}},
    "sru_0": {"kernel": jnp.ones((4, 3, 4)), "bias": jnp.ones((2, 4)), "cell": jnp.ones((2, 4))},
    "embed": {"table": {"embedding": jnp.ones((8, 4))}},
  }
  for rule in ("adamw", "muon"):
    config = training_config("dpd", "tiny").optimizer
    config.update(name=rule, weight_decay=0.5, warmup_steps=0, schedule="constant")
    optimizer = make_optimizer(config, 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    moved = {name_of(p) for p, u in jax.tree.leaves_with_path(updates) if np.any(np.asarray(u))}
    assert moved == {"layers/dense/kernel", "sru_0/kernel"}, rule


def test_fixed_style_rows_stay_bit_for_bit():
  config = load_config("lm", "tiny")
  config.optimizer.update(weight_decay=0.5, warmup_steps=0, schedule="constant", learning_rate=0.1)
  task = make_task(config)
  c = task.model_config
  assert c.fixed_styles
  params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
  optimizer = make_optimizer(config.optimizer, 10)
  batch = {
    key: jnp.arange(2 * feature.shape[0], dtype=jnp.int32).reshape(2, -1) % feature.vocabulary
    for key, feature in task.input_features().items()
  }

  @jax.jit
  def step(params, state, rng):
    grads = jax.grad(lambda p: task.loss(p, batch, rng, 0)[0])(params)
    updates, state = optimizer.update(grads, state, params)
    return jax.tree.map(jnp.add, params, updates), state

  state, new = optimizer.init(params), params
  for i in range(3):
    new, state = step(new, state, jax.random.key(i))
  before, after = (np.asarray(p["embed"]["table"]["embedding"]) for p in (params, new))
  fixed = np.arange(c.semantic_offset) % (c.style_vocab + 1) != c.null_style
  np.testing.assert_array_equal(
    after[: c.semantic_offset][fixed], before[: c.semantic_offset][fixed]
  )
  assert not np.array_equal(after[c.semantic_offset :], before[c.semantic_offset :])


def test_a_name_without_a_rule_is_refused():
  with pytest.raises(UserError, match=r"weight decay reaches dense/wieght: add 'wieght'"):
    decays({"dense": {"wieght": jnp.ones(3)}})
  assert all(isinstance(rule, bool) for rule in DECAYS.values())
