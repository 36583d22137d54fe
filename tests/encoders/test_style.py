"""The style encoder reads short clips as MuLan does."""

import numpy as np
import pytest

from melody_jax.encoders.style import StyleEncoder
from tests import tiny_bundle


@pytest.fixture(scope="module")
def style(tmp_path_factory):
  directory = tiny_bundle.write(tmp_path_factory.mktemp("bundle"), ("mulan",))
  return StyleEncoder.load(directory, text=False)


def test_a_short_clip_has_the_tokens_of_its_embedding(style):
  """Filled up in one way, whether tokens are asked for or an embedding."""
  rng = np.random.default_rng(0)
  window = style.config.window_samples
  # Long, loud and quiet parts, so that silence at the end would show.
  clip = (rng.normal(size=window * 2 // 5) * np.linspace(0.5, 0.01, window * 2 // 5)).astype("f4")
  (tokens,) = style.tokens_of_clips([clip], hop_seconds=1.0)
  assert tokens.shape == (1, 12)
  np.testing.assert_array_equal(tokens, style.tokens(style.audio(clip[None])))
  silence = np.pad(clip, (0, window - len(clip)))
  assert not np.allclose(style.audio(silence[None]), style.audio(clip[None]), atol=1e-3)


def test_windows_start_every_hop(style):
  window, rate = style.config.window_samples, style.config.sample_rate
  clip = np.random.default_rng(1).normal(size=window + 3 * rate).astype("f4")
  (tokens,) = style.tokens_of_clips([clip], hop_seconds=1.5)
  starts = (0, 3 * rate // 2, 3 * rate)
  windows = np.stack([clip[s : s + window] for s in starts])
  np.testing.assert_array_equal(tokens, style.tokens(style.audio(windows)))
