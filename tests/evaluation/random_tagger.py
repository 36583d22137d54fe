"""A musicnn of the published shapes with random weights."""

import numpy as np


def random_params(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Arrays of the published shapes."""
  kernels = [
    (7, 38, 1, 204),
    (7, 67, 1, 204),
    (128, 1, 1, 51),
    (64, 1, 1, 51),
    (32, 1, 1, 51),
    (7, 561, 1, 64),
    (7, 64, 1, 64),
    (7, 64, 1, 64),
  ]
  params = {}
  for i, shape in enumerate(kernels):
    name = f"conv2d_{i}" if i else "conv2d"
    params[f"{name}/kernel"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[:3]))
    params[f"{name}/bias"] = np.zeros(shape[-1])
  params |= {
    "dense/kernel": rng.normal(size=(1506, 200)) / 40,
    "dense/bias": np.zeros(200),
    "dense_1/kernel": rng.normal(size=(200, 50)) / 14,
    "dense_1/bias": np.zeros(50),
  }
  for i, width in enumerate([1, *(shape[-1] for shape in kernels), 1506, 200]):
    name = f"batch_normalization_{i}" if i else "batch_normalization"
    for variable, value in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_variance", 1)):
      params[f"{name}/{variable}"] = np.full(width, value)
  return {k: v.astype(np.float32) for k, v in params.items()}
