"""The music tower: what training hides, the grid of patches, and positions of other lengths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mulan as configs
from melody_jax.errors import UserError
from melody_jax.models import music_tower
from melody_jax.models.layers import config_from
from melody_jax.models.mulan import MuLanConfig


def _config(**changes):
  """The tiny music tower as AST: Kaldi's front at 16 kHz, patches every 10."""
  model = configs.get_config("tiny").model
  model.update(
    music_rate=16_000, music_front="kaldi", music_pooling="cls_distillation", patch_stride=10,
    n_fft=512, win_length=400, hop_length=160,
  )  # fmt: skip
  model.update(changes)
  return config_from(MuLanConfig, model).music


def test_patches_hold_squares_in_mel_major_order():
  x = np.arange(2 * 7 * 4, dtype=np.float32).reshape(2, 7, 4)
  patches = np.asarray(music_tower.patchify(x, 2, 2))
  assert patches.shape == (2, 6, 4)
  # Patch (mel row 1, time column 2): frames 4..5, bands 2..3, bands first.
  np.testing.assert_array_equal(patches[1, 5], x[1, 4:6, 2:4].T.reshape(-1))


def test_spec_augment_zeroes_spans_only():
  x = jnp.ones((64, 20, 6))
  masked = np.asarray(music_tower.mask_spans(jax.random.key(0), x, 1, 1, 5))
  zeros = (masked == 0).all(axis=2)
  assert ((masked == 0).any(axis=2) == zeros).all()
  assert 0 < zeros.sum(axis=1).max() <= 5
  edges = np.abs(np.diff(np.pad(zeros.astype(int), ((0, 0), (1, 1))), axis=1)).sum(axis=1)
  assert set(edges) <= {0, 2}
  bands = np.asarray(music_tower.mask_spans(jax.random.key(0), x, 2, 1, 3)) == 0
  assert (bands.any(axis=1) == bands.all(axis=1)).all()


def test_kept_patches_are_a_subset_without_repeats():
  x = jnp.broadcast_to(jnp.arange(10.0)[None, :, None], (4, 10, 1))
  kept = np.asarray(music_tower.keep_patches(jax.random.key(0), x, 0.5))[..., 0]
  assert kept.shape == (4, 5)
  assert all(len(set(row)) == 5 for row in kept)
  assert len({tuple(sorted(row)) for row in kept}) > 1


def test_patches_that_overlap_begin_every_stride():
  x = np.random.default_rng(0).normal(size=(2, 9, 7)).astype(np.float32)
  patches = np.asarray(music_tower.patchify(x, 4, 3))
  assert patches.shape == (2, 4, 16)
  for row in range(2):
    for column in range(2):
      square = x[1, 3 * column : 3 * column + 4, 3 * row : 3 * row + 4]
      np.testing.assert_array_equal(patches[1, 2 * row + column], square.T.reshape(-1))


@pytest.mark.parametrize("window_samples", [24_000, 24_001, 30_007])
def test_the_grid_is_that_of_the_network(window_samples):
  config = dataclasses.replace(_config(), window_samples=window_samples)
  mel = music_tower.standardised_mel(jnp.zeros((1, window_samples)), config)
  patches = music_tower.patchify(mel, config.patch, config.stride)
  assert patches.shape[1] == config.grid[0] * config.grid[1]


def test_a_tower_that_hears_16_khz_hears_the_same_at_24_khz():
  def tones(rate):
    t = np.arange(rate) / rate
    return jnp.asarray(0.3 * np.sin(2764.6 * t) + 0.1 * np.sin(18849.6 * t))[None]

  config = dataclasses.replace(_config(), window_samples=24_000)
  native = dataclasses.replace(config, sample_rate=16_000, window_samples=16_000)
  expected = np.asarray(music_tower.standardised_mel(tones(16_000), native))
  ours = np.asarray(music_tower.standardised_mel(tones(24_000), config))
  assert ours.shape == expected.shape
  # Inside the clip, and where there is sound: silence lies at the floor of the logarithm.
  inside = (slice(None), slice(2, -2))
  loud = expected[inside] > 0
  assert loud.mean() > 0.05
  np.testing.assert_allclose(ours[inside][loud], expected[inside][loud], atol=2e-3)


def test_positions_of_a_shorter_clip_are_the_first_columns():
  table = np.random.default_rng(0).normal(size=(1, 2 + 3 * 7, 5)).astype(np.float32)
  cut = music_tower.fit_positions(table, (3, 4), [0, 1], "x")
  np.testing.assert_array_equal(cut[:2], table[0, :2])
  np.testing.assert_array_equal(cut[2:].reshape(3, 4, 5), table[0, 2:].reshape(3, 7, 5)[:, :4])
  np.testing.assert_array_equal(
    music_tower.fit_positions(table, (3, 7), [0], "x"), np.delete(table[0], 1, axis=0)
  )


def test_positions_that_fill_no_grid_are_refused():
  table = np.zeros((1, 2 + 3 * 7, 5), np.float32)
  with pytest.raises(UserError, match="21 patches, which is no grid of 4 rows"):
    music_tower.fit_positions(table, (4, 5), [0], "x")


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({"music_front": "bark"}, "music_front 'bark'"),
    ({"music_pooling": "max"}, "music_pooling 'max'"),
    ({"n_fft": 256}, "win_length 400 is longer than n_fft 256"),
    ({"n_mels": 8}, "patches along"),
    ({"window_samples": 600}, "patches along"),
  ],
)
def test_sizes_that_do_not_go_together_are_refused(change, expected):
  with pytest.raises(UserError, match=expected):
    _config(**change)
