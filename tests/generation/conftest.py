"""One tiny bundle, loaded once: its compiled programs are shared by all tests of the sampler."""

import numpy as np
import pytest

from melody_jax import Melody, Settings


@pytest.fixture(scope="session")
def melody(tiny_models):
  return Melody.load(tiny_models)


@pytest.fixture
def loaded(melody, monkeypatch):
  """Commands find the bundle loaded, and its programs compiled."""
  monkeypatch.setattr(Melody, "load", lambda *args, **kwargs: melody)


@pytest.fixture(scope="session")
def settings():
  return Settings(steps=2, lm_guidance_scale=1.0)


@pytest.fixture(scope="session")
def clip():
  """8 s of noise whose level and colour change, so that no two places are alike."""
  rng = np.random.default_rng(0)
  noise = rng.normal(size=8 * 24_000).astype(np.float32)
  t = np.arange(len(noise)) / 24_000
  return (0.1 * noise * (1 + np.sin(3 * t)) + 0.1 * np.sin(2 * np.pi * 220 * t * t)).astype(
    np.float32
  )
