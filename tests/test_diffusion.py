"""Diffusion maths: identities, and the sampler against a Gaussian whose velocity is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax import diffusion
from melody_jax.errors import UserError
from melody_jax.generation import schedules

SHAPE = (2, 12, 3)


@pytest.fixture(scope="module")
def drawn():
  z, noise, delta = (
    jax.random.normal(key, SHAPE) for key in jax.random.split(jax.random.key(0), 3)
  )
  return z, noise, jnp.abs(jnp.mod(delta[..., 0], diffusion.HALF_PI))


def test_clean_and_noise_are_recovered_from_the_velocity(drawn):
  z, noise, delta = drawn
  noisy, v = diffusion.add_noise(z, noise, delta), diffusion.velocity(z, noise, delta)
  np.testing.assert_allclose(diffusion.angle_step(noisy, v, delta), z, atol=1e-5)
  np.testing.assert_allclose(diffusion.angle_step(noisy, v, delta - np.pi / 2), noise, atol=1e-5)


def test_a_step_with_the_true_velocity_lands_on_the_path(drawn):
  z, noise, delta = drawn
  noisy, v = diffusion.add_noise(z, noise, delta), diffusion.velocity(z, noise, delta)
  got = diffusion.angle_step(noisy, v, 0.3 * delta)
  np.testing.assert_allclose(got, diffusion.add_noise(z, noise, 0.7 * delta), atol=1e-5)


def test_velocity_is_the_derivative_of_the_path(drawn):
  z, noise, delta = drawn
  _, v = jax.jvp(lambda d: diffusion.add_noise(z, noise, d), (delta,), (jnp.ones_like(delta),))
  np.testing.assert_allclose(v, diffusion.velocity(z, noise, delta), atol=1e-5)


@pytest.mark.parametrize("length", [12, 13])
def test_chunk_angles_are_constant_inside_and_differ_between_chunks(length):
  delta = np.asarray(diffusion.chunk_angles(jax.random.key(1), 5, length, 4))
  assert delta.shape == (5, length)
  assert delta.min() >= 0 and delta.max() <= diffusion.HALF_PI
  for row in delta:
    assert len(np.unique(row)) == 4
    assert np.count_nonzero(np.diff(row)) == 3
    # Chunks of equal lengths, to a frame, even where M does not divide L.
    edges = np.flatnonzero(np.diff(row)) + 1
    assert np.ptp(np.diff([0, *edges, length])) <= 1


def test_nine_frames_have_four_chunks_and_angles_are_stratified():
  delta = np.asarray(diffusion.chunk_angles(jax.random.key(2), 6, 9, 4))
  assert all(len(np.unique(row)) == 4 for row in delta)
  # One angle in each of the 24 equal parts of [0, pi/2].
  parts = np.sort([int(a / diffusion.HALF_PI * 24) for row in delta for a in np.unique(row)])
  np.testing.assert_array_equal(parts, np.arange(24))


@pytest.mark.parametrize(("length", "chunks"), [(3, 4), (1, 2), (5, 0)])
def test_chunks_without_a_frame_are_refused(length, chunks):
  with pytest.raises(UserError, match=f"{length} frames cannot be cut into {chunks} chunks"):
    diffusion.chunk_angles(jax.random.key(0), 2, length, chunks)


@pytest.mark.parametrize(("length", "chunks"), [(4, 4), (5, 4), (7, 5), (9, 4), (10, 8), (250, 4)])
def test_every_window_has_as_many_chunks_as_asked_for(length, chunks):
  delta = np.asarray(diffusion.chunk_angles(jax.random.key(3), 2, length, chunks))
  assert all(len(np.unique(row)) == chunks for row in delta)


def _gaussian_velocity(mean, std):
  """E[v | z_delta] for data N(mean, std^2): exact, by the joint Gaussian of v and z_delta."""

  def velocity_fn(z, delta, _angle):
    cos, sin = jnp.cos(delta)[..., None], jnp.sin(delta)[..., None]
    gain = sin * cos * (1 - std**2) / (sin**2 + cos**2 * std**2)
    return -sin * mean + gain * (z - cos * mean)

  return velocity_fn


@pytest.fixture(scope="module")
def gaussian_errors():
  mean, std = 0.4, 0.3
  noise = jax.random.normal(jax.random.key(2), (64, 50, 4))
  errors = {}
  for steps in (5, 10, 20, 80):
    omegas = schedules.angle_schedule("linear", steps)
    x = diffusion.sample(_gaussian_velocity(mean, std), noise, omegas)
    # The exact flow carries z_{pi/2} = eps to mean + std * eps.
    errors[steps] = float(jnp.sqrt(jnp.mean(jnp.square(x - (mean + std * noise)))))
    if steps == 80:
      np.testing.assert_allclose(jnp.mean(x), mean, atol=0.01)
      np.testing.assert_allclose(jnp.std(x), std, atol=0.01)
  return errors


def test_sampler_reaches_the_gaussian_and_more_steps_err_less(gaussian_errors):
  values = list(gaussian_errors.values())
  assert values == sorted(values, reverse=True)
  assert gaussian_errors[80] < 0.3 * gaussian_errors[20] + 1e-3
  assert gaussian_errors[80] < 0.01


@pytest.mark.parametrize("schedule", sorted(schedules.SCHEDULES))
def test_second_order_converges_as_such(schedule):
  mean, std = 0.4, 0.3
  noise = jax.random.normal(jax.random.key(2), (8, 50, 4))

  def error(steps, second_order):
    omegas = schedules.angle_schedule(schedule, steps)
    x = diffusion.sample(_gaussian_velocity(mean, std), noise, omegas, second_order=second_order)
    return float(jnp.sqrt(jnp.mean(jnp.square(x - (mean + std * noise)))))

  # Twice the steps: a quarter of the error, where the first order halves it.
  assert 3.5 < error(20, 1.0) / error(40, 1.0) < 4.5
  assert 1.8 < error(20, 0.0) / error(40, 0.0) < 2.2
  assert error(10, 1.0) < 0.4 * error(10, 0.0)
  np.testing.assert_allclose(error(1, 1.0), error(1, 0.0), rtol=1e-6)


def test_solve_takes_as_many_steps_as_it_is_told():
  noise = jax.random.normal(jax.random.key(3), SHAPE)
  velocity_fn = _gaussian_velocity(0.4, 0.3)
  omegas = schedules.linear_schedule(5)
  padded = np.pad(omegas, (0, 95))
  share = jnp.ones(SHAPE[:2])
  solve = jax.jit(lambda n, order: diffusion.solve(velocity_fn, noise, share, padded, n, order))
  for order in (0.0, 1.0):
    want = diffusion.sample(velocity_fn, noise, omegas, second_order=order)
    np.testing.assert_allclose(solve(5, order), want, atol=1e-5)
  np.testing.assert_array_equal(solve(0, 0.0), noise)


def test_frames_start_from_their_share_of_noise():
  noise, known = jax.random.normal(jax.random.key(4), (2, *SHAPE))
  mask = jnp.zeros(SHAPE[:2]).at[:, :4].set(1.0).at[:, 4:8].set(0.7)
  seen = []

  def velocity_fn(z, delta, _angle):
    seen.append(delta)
    return -0.1 * z

  with jax.disable_jit():
    x = diffusion.sample(
      velocity_fn, noise, schedules.linear_schedule(3), known, mask, second_order=1.0
    )
  np.testing.assert_array_equal(x[:, :4], known[:, :4])
  for delta in seen:
    np.testing.assert_allclose(delta[:, 4:8], 0.3 * delta[:, 8:], rtol=1e-5)
    assert not np.any(delta[:, :4])
  np.testing.assert_allclose(seen[0][:, 8:], np.pi / 2, rtol=1e-6)
  start = diffusion.start_latents(noise, known, 1.0 - mask)
  angle = 0.3 * np.pi / 2
  want = np.cos(angle) * known[:, 4:8] + np.sin(angle) * noise[:, 4:8]
  np.testing.assert_allclose(start[:, 4:8], want, atol=1e-5)
  np.testing.assert_array_equal(start[:, 8:], noise[:, 8:])


def test_constant_data_is_reached_in_one_step():
  noise = jax.random.normal(jax.random.key(3), SHAPE)

  def velocity_fn(z, delta, _angle):  # data is the constant 0.7, hence eps is known exactly
    cos, sin = jnp.cos(delta)[..., None], jnp.sin(delta)[..., None]
    return cos * (z - cos * 0.7) / sin - sin * 0.7

  x = diffusion.sample(velocity_fn, noise, schedules.uniform_schedule(1))
  np.testing.assert_allclose(x, np.full(SHAPE, 0.7), atol=1e-5)


def test_known_frames_stay_clean_and_unchanged():
  noise, known = jax.random.normal(jax.random.key(4), (2, *SHAPE))
  mask = jnp.zeros(SHAPE[:2], bool).at[:, :5].set(True)
  seen = []

  def velocity_fn(z, delta, _angle):
    seen.append(delta.shape)
    # Fails loudly if a known frame were ever noisy.
    return jnp.where(mask[..., None] & (delta[..., None] != 0), jnp.nan, 0.1 * z)

  x = diffusion.sample(velocity_fn, noise, schedules.linear_schedule(3), known, mask)
  np.testing.assert_array_equal(x[:, :5], known[:, :5])
  free = diffusion.sample(velocity_fn, noise, schedules.linear_schedule(3))
  assert bool(jnp.all(jnp.isfinite(x)))
  np.testing.assert_allclose(x[:, 5:], free[:, 5:], atol=1e-6)


def test_guidance_combines_and_rescales():
  conditional, unconditional = jax.random.normal(jax.random.key(5), (2, *SHAPE))
  np.testing.assert_allclose(
    diffusion.guide(conditional, unconditional, 1.0), conditional, atol=1e-6
  )
  np.testing.assert_allclose(diffusion.guide(conditional, unconditional, 0.0), unconditional)
  guided = diffusion.guide(conditional, unconditional, 2.5)
  np.testing.assert_allclose(guided, 2.5 * conditional - 1.5 * unconditional, atol=1e-5)
  rescaled = diffusion.guide(conditional, unconditional, 2.5, rescale=1.0)
  np.testing.assert_allclose(
    jnp.std(rescaled, axis=(1, 2)), jnp.std(conditional, axis=(1, 2)), rtol=1e-4
  )
  per_row = diffusion.guide(conditional, unconditional, jnp.array([1.0, 2.5]).reshape(2, 1, 1))
  np.testing.assert_allclose(per_row[1], guided[1], atol=1e-5)


@pytest.mark.parametrize("std", [1.0, 1 / 3])
def test_preconditioning_leaves_unit_variance(std):
  keys = jax.random.split(jax.random.key(0), 2)
  z, noise = (jax.random.normal(key, (1, 4, 50_000)) for key in keys)
  z = z * std
  delta = jnp.asarray([[0.0, 0.3, 1.0, diffusion.HALF_PI]])
  scale_in, skip, scale_out = (x[..., None] for x in diffusion.preconditioning(delta, std))
  noisy, v = diffusion.add_noise(z, noise, delta), diffusion.velocity(z, noise, delta)
  np.testing.assert_allclose(jnp.std(noisy * scale_in, axis=-1), 1.0, atol=0.02)
  rest = (v - skip * noisy) / scale_out
  np.testing.assert_allclose(jnp.std(rest, axis=-1), 1.0, atol=0.02)
  np.testing.assert_allclose(jnp.mean(rest * noisy, axis=-1), 0.0, atol=0.02)
  if std == 1.0:
    np.testing.assert_allclose(jnp.stack([scale_in, 1 + skip, scale_out]), 1.0, atol=1e-6)
