"""Segments and columns of the dual-path diffusion network (docs/spec.md, section 6.4).

Frames are cut into half-overlapping segments, and neighbouring columns of all segments are
merged and repeated. Pure functions, without parameters.

Shape letters: B batch, L latent frames, S segments, K frames per segment, C merged columns (K_i
of the paper), W width.
"""

import jax
import jax.numpy as jnp
import numpy as np


def segment_count(length: int, segment_size: int) -> int:
  """Number of segments S = ceil(2 L / K) + 1: every frame lies in exactly two of them."""
  return -(-2 * length // segment_size) + 1


def merge_factor(block: int, n_blocks: int) -> int:
  """Number of columns merged into one, 2^min(i, N - i + 1) for block i = 1..N."""
  return 2 ** min(block, n_blocks - block + 1)


def segment(x_BxLxW: jax.Array, segment_size: int) -> jax.Array:
  """Half-overlapping segments of a sequence, its ends padded with zeros.

  Args:
    x_BxLxW: Sequences, [B, L, W].
    segment_size: Frames of a segment K, even.

  Returns:
    Segments, [K, B, S, W].
  """
  batch, length, width = x_BxLxW.shape
  half, count = segment_size // 2, segment_count(length, segment_size)
  # Half a segment of zeros in front: the first frames then lie in two segments like all others.
  tail = (count + 1) * half - half - length
  x = jnp.pad(x_BxLxW, ((0, 0), (half, tail), (0, 0)))
  # Frames first: a step of the recurrence reads one contiguous block.
  x = x.reshape(batch, count + 1, half, width).transpose(2, 0, 1, 3)
  # Each half is the second part of one segment and the first part of the next: no gather.
  return jnp.concatenate([x[:, :, :-1], x[:, :, 1:]], axis=0)


def join_segments(h_KxBxSxW: jax.Array, length: int) -> jax.Array:
  """Sum of the two segments that hold each frame; of what `segment` cut, twice its input.

  Args:
    h_KxBxSxW: Segments, [K, B, S, W].
    length: Number of frames L.

  Returns:
    Sequences, [B, L, W].
  """
  segment_size, batch, count, width = h_KxBxSxW.shape
  half = segment_size // 2
  # A frame lies in two segments, so two shifted halves do; no scatter is needed.
  first = jnp.pad(h_KxBxSxW[:half], ((0, 0), (0, 0), (0, 1), (0, 0)))
  second = jnp.pad(h_KxBxSxW[half:], ((0, 0), (0, 0), (1, 0), (0, 0)))
  x = (first + second).transpose(1, 2, 0, 3).reshape(batch, (count + 1) * half, width)
  return x[:, half : half + length]


def merge_columns(h_KxBxSxW: jax.Array, factor: int) -> jax.Array:
  """MergeSegments of the paper: means of `factor` neighbouring columns.

  Args:
    h_KxBxSxW: Segments, [K, B, S, W].
    factor: Number of columns merged into one; the last mean may have fewer.

  Returns:
    Merged columns, [B, C, S, W] with C = ceil(K / factor).
  """
  k, batch, s, width = h_KxBxSxW.shape
  columns = -(-k // factor)
  x = jnp.pad(h_KxBxSxW, ((0, columns * factor - k), (0, 0), (0, 0), (0, 0)))
  x = jnp.sum(x.reshape(columns, factor, batch, s, width), axis=1)
  # The zeros that fill the last column must not weigh in its mean.
  members = np.minimum(factor, k - factor * np.arange(columns))
  return (x / members.astype(x.dtype)[:, None, None, None]).transpose(1, 0, 2, 3)


def repeat_columns(c_BxCxSxW: jax.Array, segment_size: int, factor: int) -> jax.Array:
  """RepeatSegments of the paper: each column `factor` times.

  Args:
    c_BxCxSxW: Merged columns, [B, C, S, W].
    segment_size: Frames of a segment K; what goes beyond is cut off.
    factor: Number of columns that were merged into one.

  Returns:
    Segments, [K, B, S, W].
  """
  batch, columns, s, width = c_BxCxSxW.shape
  x = c_BxCxSxW.transpose(1, 0, 2, 3)[:, None]
  x = jnp.broadcast_to(x, (columns, factor, batch, s, width))
  return x.reshape(columns * factor, batch, s, width)[:segment_size]


def column_positions(
  count: int, segment_size: int, factor: int, frames_per_token: float
) -> np.ndarray:
  """Place in time of the middle of each merged column of each segment, in semantic tokens.

  Args:
    count: Number of segments S.
    segment_size: Frames of a segment K.
    factor: Number of columns merged into one.
    frames_per_token: Latent frames per semantic token.

  Returns:
    float32 [C, S]; the half segment of padding in front has negative places.
  """
  columns = -(-segment_size // factor)
  starts = np.minimum(factor * np.arange(columns), segment_size)
  ends = np.minimum(starts + factor, segment_size)
  # Segment s begins half a segment before frame s K / 2, for the padding in front.
  frames = (starts + ends)[:, None] / 2 + segment_size / 2 * (np.arange(count)[None, :] - 1)
  return (frames / frames_per_token).astype(np.float32)
