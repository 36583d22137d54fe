"""Segments and columns of the dual-path diffusion network."""

import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.models import segments


@pytest.mark.parametrize(("length", "size"), [(2500, 64), (500, 32), (21, 8), (1, 4), (8, 8)])
def test_segmentation_round_trip(length, size):
  x = np.random.default_rng(0).normal(size=(2, length, 3)).astype(np.float32)
  cut = segments.segment(jnp.asarray(x), size)
  count = segments.segment_count(length, size)
  assert cut.shape == (size, 2, count, 3)
  np.testing.assert_allclose(segments.join_segments(cut, length), 2 * x, atol=1e-6)
  # Frame l is column l mod K/2 of the second half of segment l // (K/2).
  frame = length // 2
  np.testing.assert_array_equal(
    cut[size // 2 + frame % (size // 2), :, frame // (size // 2)], x[:, frame]
  )


def test_segment_count_of_the_paper():
  assert segments.segment_count(2500, 64) == 80
  assert segments.segment_count(500, 32) == 33


def test_columns_follow_the_papers_formula():
  columns = [-(-64 // segments.merge_factor(i, 8)) for i in range(1, 9)]
  assert columns == [32, 16, 8, 4, 4, 8, 16, 32]


def test_merging_averages_neighbours_also_where_they_do_not_divide():
  h = jnp.arange(6.0).reshape(6, 1, 1, 1) * jnp.ones((6, 2, 3, 1))
  merged = segments.merge_columns(h, 4)
  assert merged.shape == (2, 2, 3, 1)
  np.testing.assert_allclose(merged[0, :, 0, 0], [1.5, 4.5])
  repeated = segments.repeat_columns(merged, 6, 4)
  np.testing.assert_allclose(repeated[:, 0, 0, 0], [1.5] * 4 + [4.5] * 2)
  assert repeated.shape == h.shape


def test_column_positions_are_in_tokens():
  positions = segments.column_positions(3, 8, 4, 2.0)
  # Segment 1 starts at frame 0: its columns' centres are frames 2 and 6, tokens 1 and 3.
  np.testing.assert_allclose(positions[:, 1], [1.0, 3.0])
  np.testing.assert_allclose(positions[:, 2] - positions[:, 1], [2.0, 2.0])
