"""The VAE-GAN's players: turns, their optimisers, and what each is held to."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from melody_jax.losses import adversarial
from melody_jax.task import make_task
from melody_jax.training.optimizer import make_optimizer
from melody_jax.training.state import make_init
from melody_jax.training.step import make_train_step
from tests.configs import load_config, waveform_vae

RATES = {"generator": 3e-3, "discriminator": 1e-3}
CLIPS = {"generator": 0.5, "discriminator": 2.0}


def config_of(accumulate=1, train_encoder=True):
  c = waveform_vae()
  c.train.accumulate = accumulate
  c.loss.train_encoder = train_encoder
  c.optimizer.update(
    schedule="constant", warmup_steps=0, eps=1e-3,
    learning_rate=RATES["generator"], clip_norm=CLIPS["generator"],
  )  # fmt: skip
  c.discriminator_optimizer.update(
    learning_rate=RATES["discriminator"], clip_norm=CLIPS["discriminator"]
  )
  return c


def batch_of(task, rows=4):
  t = np.arange(task.samples) / 24_000
  sound = [0.3 * np.sin(2 * np.pi * 300 * (i + 1) * t) for i in range(rows)]
  noise = 0.02 * np.random.default_rng(0).normal(size=(rows, task.samples))
  return {"audio": jnp.asarray(np.asarray(sound) + noise, jnp.float32)}


@pytest.fixture(scope="module")
def born():
  """(config, task, state, batch, state and metrics after one step)."""
  config = config_of()
  task = make_task(config)
  init, optimizers, _ = make_init(config, task)
  state, batch = jax.jit(init)(jax.random.key(0)), batch_of(task)
  return (
    config,
    task,
    state,
    batch,
    jax.jit(make_train_step(config, task, optimizers))(state, batch),
  )


def by_hand(config, task, state, batch):
  """HiFi-GAN's iteration, written out: the discriminators first, then the generator."""
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  generator, judges = state.params["generator"], state.params["discriminator"]

  def judge(p, x):
    return task.judges.apply({"params": p}, x)

  def sound(g):
    audio = batch["audio"]
    shape = (len(audio), audio.shape[1] // task.model_config.hop_length, 4)
    return task.model.apply({"params": g}, audio, jax.random.normal(rng, shape))

  def rule(player):
    settings = config.optimizer.copy_and_resolve_references()
    settings.update(learning_rate=RATES[player], clip_norm=CLIPS[player])
    return make_optimizer(settings, config.train.steps)

  def caught(d):
    fake = jax.lax.stop_gradient(sound(generator)[0])
    return adversarial.discriminator_loss(judge(d, batch["audio"]), judge(d, fake))

  gradient = jax.grad(caught)(judges)
  updates, _ = rule("discriminator").update(gradient, rule("discriminator").init(judges), judges)
  judges = optax.apply_updates(judges, updates)

  def fooled(g):
    estimate, mean, log_variance = sound(g)
    errors, _, _ = task._waveform_errors(batch["audio"], estimate)
    kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1 - log_variance)
    real, fake = judge(judges, batch["audio"]), judge(judges, estimate)
    return (
      errors
      + 5e-3 * kl
      + adversarial.generator_loss(fake)
      + 20 * adversarial.feature_matching_loss(real, fake)
    )

  gradient = jax.grad(fooled)(generator)
  updates, _ = rule("generator").update(gradient, rule("generator").init(generator), generator)
  return {"generator": optax.apply_updates(generator, updates), "discriminator": judges}


def test_a_step_is_hifigans_iteration(born):
  config, task, state, batch, (after, metrics) = born
  expected = jax.jit(lambda s: by_hand(config, task, s, batch))(state)
  moved = {}
  for player in RATES:
    for a, b, before in zip(
      *(jax.tree.leaves(x[player]) for x in (after.params, expected, state.params)), strict=True
    ):
      np.testing.assert_allclose(a, b, atol=2e-6)
      moved[player] = max(moved.get(player, 0.0), float(jnp.abs(a - before).max()))
  # Both moved, each at its own rate, and both were clipped at their own norms.
  for player, rate in RATES.items():
    assert 0.3 * rate < moved[player] < 1.5 * rate
    assert float(metrics[f"grad_norm_{player}"]) > CLIPS[player]
  assert float(metrics["finite"]) == 1.0


def test_moments_are_apart(born):
  _, _, _, _, (after, _) = born
  assert set(after.opt_state) == set(RATES)
  for player in RATES:
    counts = [x for x in jax.tree.leaves(after.opt_state[player]) if x.dtype == jnp.int32]
    assert counts and all(int(n) == 1 for n in counts)


def test_a_spike_of_the_discriminators_leaves_the_generators_clip_alone(born):
  """Under one clip for both, a discriminator's gradient of 1e6 would stop the generator."""
  config, task, state, batch, (_, calm) = born
  optimizers = make_init(config, task)[1]
  spike = jax.tree.map(lambda x: x, state.params)
  spike["discriminator"] = jax.tree.map(lambda x: 30.0 * x, spike["discriminator"])
  after, metrics = jax.jit(make_train_step(config, task, optimizers))(
    state.replace(params=spike), batch
  )
  assert float(metrics["grad_norm_discriminator"]) > 1e3 * float(calm["grad_norm_discriminator"])
  step = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params, spike)["generator"]
  assert max(map(float, jax.tree.leaves(step))) > 0.3 * RATES["generator"]


def test_parts_of_a_batch_and_a_frozen_encoder():
  """Parts are means for either player; an encoder that stands still has no memory of gradients."""
  config = config_of(accumulate=2, train_encoder=False)
  task = make_task(config)
  init, optimizers, _ = make_init(config, task)
  state, batch = jax.jit(init)(jax.random.key(0)), batch_of(task)
  step = jax.jit(make_train_step(config, task, optimizers))
  after, metrics = step(*[step(state, batch)[0]], batch)
  for a, b in zip(
    *(jax.tree.leaves(s.params["generator"]["encoder"]) for s in (state, after)), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  names = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(after.opt_state)]
  assert any("decoder" in name for name in names) and not any("encoder" in name for name in names)
  assert float(metrics["discriminator"]) > 0.0 and int(after.step) == 2


def test_nobody_moves_where_one_player_is_not_finite(born):
  config, task, state, batch, _ = born
  optimizers = make_init(config, task)[1]
  broken = jax.tree.map(lambda x: x, state.params)
  broken["discriminator"] = jax.tree.map(lambda x: jnp.nan * x, broken["discriminator"])
  broken = state.replace(params=broken)
  after, metrics = jax.jit(make_train_step(config, task, optimizers))(broken, batch)
  assert float(metrics["finite"]) == 0.0 and int(after.step) == 1
  for a, b in zip(jax.tree.leaves(broken.params), jax.tree.leaves(after.params), strict=True):
    np.testing.assert_array_equal(a, b)


def test_evaluation_is_the_sum_of_the_turns(born):
  """Counts of useful work take its gradient: the players' losses with the other held still."""
  _, task, state, batch, _ = born
  rng, step = jax.random.key(5), jnp.zeros((), jnp.int32)

  @jax.jit
  def gradients(params):
    whole = jax.grad(lambda p: task.loss(p, batch, rng, step)[0])(params)
    apart = {
      turn.part: jax.grad(lambda o, t=turn: t.loss(t.put(params, o), batch, rng, step)[0])(
        turn.own(params)
      )
      for turn in task.turns()
    }
    return whole, apart

  whole, apart = gradients(state.params)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(apart), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_one_player_takes_one_turn():
  task = make_task(load_config("vae", "nano"))
  assert [turn.part for turn in task.turns()] == [""]
  assert set(nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))) == {"generator"}
