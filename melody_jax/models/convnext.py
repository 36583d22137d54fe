"""The residual block of the frame-rate codecs (after Liu et al. 2022, arXiv 2201.03545)."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from melody_jax.models.layers import Dense, DepthwiseConv1d, LayerNorm, param_with_axes


class ConvNextBlock(nn.Module):
  """Depthwise convolution, norm, MLP, with a residual: [B, L, C] -> [B, L, C]."""

  kernel_size: int
  mlp_ratio: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    y = DepthwiseConv1d(self.kernel_size, dtype=self.dtype, name="depthwise")(x)
    y = LayerNorm(dtype=self.dtype, name="norm")(y)
    y = Dense(self.mlp_ratio * width, ("embed", "mlp"), dtype=self.dtype, name="up")(y)
    y = Dense(width, ("mlp", "embed"), dtype=self.dtype, name="down")(nn.gelu(y))
    scale = param_with_axes(self, "layer_scale", nn.initializers.constant(0.1), (width,), ("norm",))
    return x + y * scale.astype(self.dtype)[None, None, :]
