"""Entropies of token streams with known distributions."""

import numpy as np
import pytest

from melody_jax.metrics.tokens import explained_variance, token_use


def test_uniform_tokens_reach_the_logarithm_of_the_vocabulary():
  use = token_use(np.tile(np.arange(16), (4, 1)), 1024)
  assert use.entropy == pytest.approx(np.log(16))
  assert use.perplexity == pytest.approx(16)
  assert (use.used, use.n_tokens, use.repeat_rate) == (16, 64, 0.0)


def test_constant_tokens_have_no_entropy():
  use = token_use(np.full((2, 10), 7), 1024)
  assert (use.used, use.entropy, use.perplexity, use.repeat_rate) == (1, 0.0, 1.0, 1.0)


def test_unequal_frequencies():
  use = token_use(np.array([[0, 0, 0, 1]]), 2)
  assert use.entropy == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  assert use.repeat_rate == pytest.approx(2 / 3)


def test_tokens_outside_the_vocabulary_are_refused():
  with pytest.raises(ValueError, match="vocabulary is 8"):
    token_use(np.array([[0, 8]]), 8)
  with pytest.raises(ValueError, match="non-empty"):
    token_use(np.zeros((0, 4), int), 8)


def test_tokens_explain_what_they_were_made_of_on_other_rows():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 8, (40, 100))
  signal = rng.normal(size=(8, 3))[tokens]
  noise = rng.normal(size=(40, 100, 3)) * 0.5
  values = signal + noise
  by_hand = 1 - noise.var() / values.var(axis=(0, 1)).mean()
  fit, held = (tokens[:20], values[:20]), (tokens[20:], values[20:])
  assert explained_variance(fit, held, 16) == pytest.approx(by_hand, abs=0.02)
  # Tokens that the fit never saw stand for the mean of all.
  new = (np.full((20, 100), 9), values[20:])
  assert explained_variance(fit, new, 16) == pytest.approx(0.0, abs=0.01)
  assert np.isnan(explained_variance(fit, (tokens[20:], np.zeros((20, 100, 3))), 16))
