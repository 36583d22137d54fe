"""Matmul and convolution operations of a JAX function, counted before compilation."""

from collections.abc import Callable
import math
from typing import Any

import jax
from jax.extend import core

from melody_jax.task import Task


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> float:
  """Counts the multiplications and additions of all matmuls and convolutions of one call.

  The body of a `scan` counts once per iteration; the body of a `while_loop`, whose length is
  unknown, counts once. Of several branches the costliest counts. What `remat` computes again counts
  again.

  Args:
    function: Function that JAX can trace.
    arguments: Its arguments: arrays or ShapeDtypeStructs.

  Returns:
    Number of operations.
  """
  return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def useful_flops(task: Task, params: Any, batch: Any) -> float:
  """Matmul operations of the loss and its gradients, nothing computed twice for lack of memory.

  Args:
    task: The model in training; what it recomputes makes no difference.
    params: parameters, or their shapes.
    batch: all rows of a step, or their shapes.
  """
  rng, step = jax.eval_shape(lambda: (jax.random.key(0), 0))
  # What is computed twice to save memory is work, but not useful work.
  gradient = jax.grad(task.without_recomputation().loss, has_aux=True)
  return matmul_flops(gradient, params, batch, rng, step)


def _of_jaxpr(jaxpr: core.Jaxpr) -> float:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _inner(parameters: dict[str, Any]) -> list[core.Jaxpr]:
  found = []
  for value in parameters.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      # Some primitives hold one jaxpr, some a tuple of them (branches), some with constants.
      if isinstance(item, core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        found.append(item)
  return found


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape


def _of_equation(equation: core.JaxprEqn) -> float:
  name, parameters = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = parameters["dimension_numbers"]
    # Two operations, a product and a sum, for every contracted element of every result.
    depth = math.prod(_shape(equation.invars[0])[i] for i in contracted)
    return 2.0 * depth * math.prod(_shape(equation.outvars[0]))
  if name == "conv_general_dilated":
    kernel = _shape(equation.invars[1])
    # All of the kernel but its output axis is summed over for every output.
    features = parameters["dimension_numbers"].rhs_spec[0]
    per_output = math.prod(kernel) / kernel[features] / parameters["batch_group_count"]
    # A transposed convolution multiplies zeros in between; only the real taps count.
    return (
      2.0 * per_output * math.prod(_shape(equation.outvars[0]))
      / math.prod(parameters["lhs_dilation"])
    )  # fmt: skip
  inner = [_of_jaxpr(jaxpr) for jaxpr in _inner(parameters)]
  # Elementwise work counts as nothing; a primitive with inner programs counts as they do.
  if name == "scan":
    return parameters["length"] * sum(inner)
  if name == "cond":
    return max(inner, default=0.0)
  if name == "pallas_call":
    # Our kernels are elementwise recurrences; attention's is one branch of a `cond` whose other
    # branch, the formula, counts.
    return 0.0
  return sum(inner)
