"""A bidirectional SRU layer, the fine path of the dual-path diffusion network.

docs/spec.md, section 6.4; SRU is Lei et al. (2018, arXiv 1709.02755), its recurrence `kernels.sru`.

Shape letters: B batch, S segments, K frames per segment, I input size.
"""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.kernels.sru import sru
from melody_jax.models.layers import param_with_axes


def _sru_kernel_init(rng, shape, dtype):
  """Unit-variance candidates; gates at half the variance, as v c adds the other half."""
  init = nn.initializers.variance_scaling(
    1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=(1, 2)
  )
  scale = np.ones((1, shape[1], 1), np.float32)
  scale[:, 1:3] = math.sqrt(0.5)
  return init(rng, shape, dtype) * scale


def _cell_init(rng, shape, dtype):
  """Uniform with variance 1/2 (see `_sru_kernel_init`)."""
  return jax.random.uniform(rng, shape, dtype, -math.sqrt(1.5), math.sqrt(1.5))


class BidirectionalSRU(nn.Module):
  """One SRU layer along K, both directions: [K, B, S, in] -> [K, B, S, 2 hidden].

  The highway input is x itself where sizes agree (in = 2 hidden), else a projection of x.
  """

  hidden: int
  dtype: str

  @nn.compact
  def __call__(self, x_KxBxSxI: jax.Array) -> jax.Array:
    k, batch, s, size = x_KxBxSxI.shape
    both = 2 * self.hidden
    # The fourth product is the skip, where x itself has the wrong size for it.
    gates = 3 if size == both else 4
    kernel = param_with_axes(
      self, "kernel", _sru_kernel_init, (size, gates, both), ("embed", "gate", "mlp")
    )
    cell = param_with_axes(self, "cell", _cell_init, (2, both), ("gate", "norm"))
    zeros = nn.initializers.zeros_init()
    bias = param_with_axes(self, "bias", zeros, (2, both), ("gate", "norm"))
    # Segments of all items become rows: the recurrence runs along K and mixes none of them.
    x = x_KxBxSxI.reshape(k, batch * s, size)
    # Before the recurrence: what is left for each of the K steps is elementwise, which is the point
    # of an SRU. A product for each gate: cut out of one wide product, each would be copied to where
    # the recurrence's kernel reads it, and its gradient copied back.
    candidate, forget, reset, *projected = (
      jnp.dot(x, kernel[:, i].astype(x.dtype)) for i in range(gates)
    )
    skip = projected[0] if projected else x
    return sru(candidate, forget, reset, skip, cell, bias).reshape(k, batch, s, both)
