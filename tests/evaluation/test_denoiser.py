"""Velocity errors of stand-in networks whose error is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.evaluation.denoiser import evaluate_denoiser, other_tracks, velocity_errors
from melody_jax.metrics.diffusion import constant_predictor_error

N, L, D, T = 24, 40, 3, 10


@pytest.fixture(scope="module")
def windows():
  rng = np.random.default_rng(0)
  latents = rng.normal(size=(N, L, D)) * np.array([0.2, 0.5, 1.0]) + np.array([0.3, 0.0, -0.2])
  return latents.astype(np.float32), rng.integers(0, 8, (N, T)), np.arange(N) // 4


def _ignorant(noisy, delta, tokens, conditional):
  return jnp.zeros_like(noisy)


def test_baselines_reach_their_closed_forms(windows):
  latents, tokens, tracks = windows
  errors = velocity_errors(
    _ignorant, latents, tokens, tracks, chunks=4, draws=8, batch_size=8, seed=0
  )
  assert errors["right"].shape == (8 * N, L)
  variance = jnp.asarray(latents.reshape(-1, D).var(axis=0))
  delta = jnp.asarray(errors["delta"])
  sin2 = jnp.square(jnp.sin(delta))[..., None]
  of_noisy = sin2 + (1 - sin2) * variance[None, None, :]
  closed_forms = {
    "constant": constant_predictor_error(variance, delta),
    "linear": variance[None, None, :] / of_noisy,
  }
  for name, closed in closed_forms.items():
    assert errors[name].mean() == pytest.approx(float(jnp.mean(closed)), rel=0.02)
  # A velocity of zero only scales the noisy latents; the posterior's mean does better than that.
  np.testing.assert_allclose(errors["gain_right"], 0.0, atol=1e-3)
  assert errors["gain_linear"].shape == (8 * N, L) and errors["gain_linear"].mean() > 0.5
  # The network that says nothing errs by the second moment of v, which exceeds its variance.
  assert errors["right"].mean() > errors["constant"].mean()


def test_tokens_that_tell_something_are_seen_to_help(windows):
  latents, tokens, tracks = windows

  def knows(noisy, delta, given, conditional):
    # An error that grows with the distance between the tokens given and the windows' own.
    distance = jnp.mean(jnp.square(given - tokens[: len(noisy)]), axis=1)
    return jnp.broadcast_to(0.1 * distance[:, None, None], noisy.shape)

  finding = evaluate_denoiser(
    knows, {"a": (latents[:8], tokens[:8], tracks[:8])}, 4, 2, 8, 0, lambda message: None
  )
  (summary,) = finding.values["datasets"].values()
  assert summary["right"] < summary["shuffled"]
  assert finding.values["right_beats_shuffled"] == 1.0
  assert summary["si_snr_gain_right"] > summary["si_snr_gain_shuffled"]
  assert "best constant per angle" in finding.markdown and "SI-SNR gain, dB" in finding.markdown


def test_wrong_tokens_come_from_another_track():
  tracks = np.array([0, 0, 0, 1, 1, 2])
  chosen = other_tracks(tracks, np.random.default_rng(0))
  assert (tracks[chosen] != tracks).all()
  alone = other_tracks(np.zeros(5, int), np.random.default_rng(0))
  assert (alone != np.arange(5)).all()
  with pytest.raises(ValueError, match="one window"):
    other_tracks(np.zeros(1, int), np.random.default_rng(0))
