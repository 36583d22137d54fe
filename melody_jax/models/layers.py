"""Layers shared by all networks. Every parameter names its logical axes.

Shape letters: B batch, T time, D width, H heads, K head size. Parameters are float32;
`dtype` is the dtype of computation.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax.config import DTYPES
from melody_jax.errors import UserError, check_choice, check_range

Dtype = Any
Initializer = Callable[..., jax.Array]

# LeCun's: a layer keeps the variance of what it reads.
default_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def param_with_axes(
  module: nn.Module, name: str, init: Initializer, shape: Sequence[int], axes: Sequence[str]
) -> jax.Array:
  """Float32 parameter of a module: a new one, or the one that the module was given.

  Args:
    module: Module that owns the parameter, in its compact method or setup.
    name: Name of the parameter.
    init: Function of (key, shape, dtype) that draws it.
    shape: Its shape.
    axes: Logical name of each dimension, see `sharding`.

  Returns:
    The parameter, of that shape.

  Raises:
    ValueError: Axes and shape differ in length, or the parameter given has another shape.
  """
  if len(axes) != len(shape):
    raise ValueError(f"{name}: {len(shape)} dimensions, axes {tuple(axes)}")
  if module.has_variable("params", name):
    # Module.param would trace `init` again for its shape, a fifth of the time to trace a sampler.
    value = nn.meta.unbox(module.get_variable("params", name))
    if value.shape != tuple(shape):
      raise ValueError(f"{module.name}/{name} is {value.shape}, the model's is {tuple(shape)}")
    return value
  boxed = nn.with_logical_partitioning(init, tuple(axes))
  return module.param(name, boxed, tuple(shape), jnp.float32)


class Dense(nn.Module):
  """y = x W + b over the last axis: [..., in] -> [..., features].

  Attributes:
    features: Output size.
    axes: Logical names of the kernel's (input, output) dimensions.
    out_dtype: Dtype of the result; None: `dtype`. In bfloat16 a last layer takes float32, which
      is what sums are accumulated in: rounding them would cost a loss its small differences.
  """

  features: int
  axes: tuple[str, str] = ("embed", "mlp")
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  kernel_init: Initializer = default_kernel_init
  bias_init: Initializer = nn.initializers.zeros_init()
  out_dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = param_with_axes(
      self, "kernel", self.kernel_init, (x.shape[-1], self.features), self.axes
    )
    out_dtype = self.out_dtype or self.dtype
    y = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=out_dtype)
    if self.use_bias:
      # Broadcast by hand, here and below: the tests forbid arrays of unequal rank.
      bias = param_with_axes(self, "bias", self.bias_init, (self.features,), ("norm",))
      y = y + jnp.broadcast_to(bias.astype(out_dtype), y.shape)
    return y


class Projection(nn.Module):
  """x W without a bias: [..., in] -> [..., features]."""

  features: int
  axes: tuple[str, str]
  dtype: Any
  kernel_init: Initializer = default_kernel_init
  out_dtype: Any = None  # of the result; None: `dtype`

  @nn.compact
  def __call__(self, x, last_columns: int | None = None):
    """Product [..., features], or with `last_columns` of that many last columns of W alone."""
    kernel = param_with_axes(
      self, "kernel", self.kernel_init, (x.shape[-1], self.features), self.axes
    )
    # Cut before the product, so that the other columns cost nothing.
    if last_columns is not None:
      kernel = kernel[:, self.features - last_columns :]
    return matmul(x.astype(self.dtype), kernel.astype(self.dtype), self.out_dtype or self.dtype)


def matmul(x: jax.Array, kernel: jax.Array, dtype: Any) -> jax.Array:
  """[..., in] @ [in, out] in `dtype`; up to four rows go one by one on CPU, as decoding has them.

  XLA's CPU matmul repacks the kernel for 2 rows and more; 2 rows of 256 x 640 took twice the
  time of two vector-matrix products (0.7 against 1.4 ms for 4 M weights on one EPYC core).
  """
  dot = functools.partial(jnp.dot, preferred_element_type=dtype)
  rows = x.reshape(-1, x.shape[-1])
  # Known when the program is traced: other shapes never pay for the choice.
  if not 2 <= rows.shape[0] <= 4:
    return dot(x, kernel)

  def one_by_one(rows, kernel):
    return jnp.stack([dot(row, kernel) for row in rows])

  y = jax.lax.platform_dependent(rows, kernel, cpu=one_by_one, default=dot)
  return y.reshape(*x.shape[:-1], kernel.shape[1])


class Conv1d(nn.Module):
  """Dense 1-D convolution: [B, T, in] -> [B, T', features].

  Attributes:
    padding: "SAME", "VALID", "CAUSAL" or explicit (left, right).
  """

  features: int
  kernel_size: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  padding: str | tuple[int, int] = "SAME"
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  kernel_init: Initializer = default_kernel_init

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = param_with_axes(
      self, "kernel", self.kernel_init, shape, ("kernel", "conv_in", "conv_out")
    )
    # XLA pads evenly or not at all: a causal layer pads by hand, all of it in front.
    padding: Any = self.padding
    if padding == "CAUSAL":
      padding = [(self.dilation * (self.kernel_size - 1), 0)]
    elif isinstance(padding, tuple):
      padding = [padding]
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.stride,),
      padding,
      rhs_dilation=(self.dilation,),
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=self.groups,
    )
    if self.use_bias:
      bias = param_with_axes(
        self, "bias", nn.initializers.zeros_init(), (self.features,), ("norm",)
      )
      y = y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)
    return y


class Conv2d(nn.Module):
  """Dense 2-D convolution, SAME padding: [B, H, W, in] -> [B, H', W', features]."""

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  dtype: Dtype = jnp.float32
  kernel_init: Initializer = default_kernel_init

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel_size, x.shape[-1], self.features)
    axes = ("kernel", "kernel", "conv_in", "conv_out")
    kernel = param_with_axes(self, "kernel", self.kernel_init, shape, axes)
    bias = param_with_axes(self, "bias", nn.initializers.zeros_init(), (self.features,), ("norm",))
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      self.strides,
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + bias.astype(self.dtype)[None, None, None, :]


class DepthwiseConv1d(nn.Module):
  """Depthwise 1-D convolution as shifted multiplications: [B, T, D] -> [B, T, D].

  It gives the same sum as a grouped convolution. On a CPU its gradient is about 30 times faster
  than XLA's with `feature_group_count = D`.
  """

  kernel_size: int
  padding: str = "SAME"
  use_bias: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k, d, t = self.kernel_size, x.shape[-1], x.shape[1]
    kernel = param_with_axes(
      self,
      "kernel",
      nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=()),
      (k, d),
      ("kernel", "norm"),
    )
    left = k - 1 if self.padding == "CAUSAL" else (k - 1) // 2
    x = jnp.pad(x.astype(self.dtype), ((0, 0), (left, k - 1 - left), (0, 0)))
    kernel = kernel.astype(self.dtype)
    y: Any = sum(x[:, i : i + t] * kernel[None, None, i] for i in range(k))
    if self.use_bias:
      bias = param_with_axes(self, "bias", nn.initializers.zeros_init(), (d,), ("norm",))
      y = y + bias.astype(self.dtype)[None, None, :]
    return y


class Embed(nn.Module):
  """Embedding table: int [...] -> [..., features]."""

  num_embeddings: int
  features: int
  dtype: Dtype = jnp.float32
  embedding_init: Initializer = nn.initializers.normal(0.02)
  axes: tuple[str, str] = ("vocab", "embed")

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    table = param_with_axes(
      self, "embedding", self.embedding_init, (self.num_embeddings, self.features), self.axes
    )
    return jnp.take(table.astype(self.dtype), ids, axis=0)


class RMSNorm(nn.Module):
  """Root-mean-square norm over the last axis (Zhang & Sennrich, 2019): [..., D] -> [..., D].

  Computed in float32.

  Attributes:
    initial_scale: Scale of the output at birth; it is learned.
  """

  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32
  initial_scale: float = 1.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.constant(self.initial_scale)
    scale = param_with_axes(self, "scale", init, (x.shape[-1],), ("norm",))
    # A mean of squares would keep two digits in bfloat16.
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
    return (y * jnp.broadcast_to(scale, y.shape)).astype(self.dtype)


class LayerNorm(nn.Module):
  """Layer norm over the last axis, computed in float32: [..., D] -> [..., D]."""

  epsilon: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = param_with_axes(self, "scale", nn.initializers.ones_init(), (x.shape[-1],), ("norm",))
    bias = param_with_axes(self, "bias", nn.initializers.zeros_init(), (x.shape[-1],), ("norm",))
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, axis=-1, keepdims=True)
    # Not mean(x^2) - mean(x)^2, which cancels where the mean is large.
    variance = jnp.mean(jnp.square(x32 - mean), axis=-1, keepdims=True)
    y = (x32 - mean) * jax.lax.rsqrt(variance + self.epsilon)
    return (y * jnp.broadcast_to(scale, y.shape) + jnp.broadcast_to(bias, y.shape)).astype(
      self.dtype
    )


def rotary_angles(positions_T: jax.Array, head_size: int, base: float = 10_000.0) -> jax.Array:
  """Rotary angles [T, head_size / 2] of integer positions (RoFormer, Su et al., 2021)."""
  # In float32 whatever the network computes in: bfloat16 would round position 250 by up to half a
  # radian.
  inverse = base ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
  return positions_T.astype(jnp.float32)[:, None] * inverse[None, :]


def apply_rotary(x_BTHK: jax.Array, angles_TC: jax.Array) -> jax.Array:
  """Heads [B, T, H, K] with their two halves rotated (the LLaMA / GPT-NeoX pairing)."""
  cos, sin = jnp.cos(angles_TC)[None, :, None, :], jnp.sin(angles_TC)[None, :, None, :]
  x32 = x_BTHK.astype(jnp.float32)
  first, second = jnp.split(x32, 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x_BTHK.dtype)


# Endings of the names of sizes that no network can have at 0.
_AT_LEAST_ONE = ("width", "heads", "size", "dim", "vocab")


def _check_field(field: dataclasses.Field, value: Any) -> None:
  """Refuses sizes and dtypes that would fail much later, deep inside a network."""
  if field.name == "dtype":
    check_choice("dtype", value, DTYPES)
  # Tuples of sizes are checked one by one.
  numbers = value if isinstance(value, tuple) else (value,)
  # A default of 0 means that the field may switch something off.
  low = int(field.name.endswith(_AT_LEAST_ONE) and field.default != 0)
  for number in numbers:
    if isinstance(number, int) and not isinstance(number, bool):
      check_range(field.name, number, low, float("inf"))


def config_from(cls: type, values: Any) -> Any:
  """Makes a frozen model config from what a user wrote.

  Every network gets its sizes through this function. An error of the config's own checks leaves it
  as a UserError.

  Args:
    cls: Dataclass of the model config.
    values: ConfigDict or mapping with its fields.

  Returns:
    An instance of `cls`. Lists have become tuples, so that it can be hashed.

  Raises:
    UserError: A key is unknown (misspelt, for example), a size or dtype is impossible, or sizes do
      not fit together.
  """
  fields = {f.name: f for f in dataclasses.fields(cls)}
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise UserError(
      f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(fields))}"
    )

  # Configs are static arguments of compiled programs, so they must be hashable.
  def freeze(value: Any) -> Any:
    return tuple(freeze(v) for v in value) if isinstance(value, list | tuple) else value

  frozen = {key: freeze(value) for key, value in values.items()}
  try:
    for key, value in frozen.items():
      _check_field(fields[key], value)
    return cls(**frozen)
  # Arithmetic too: a config's own checks may divide by a size that is 0.
  except (TypeError, ValueError, ArithmeticError, UserError) as e:
    raise UserError(f"{cls.__name__}: {e}") from e
