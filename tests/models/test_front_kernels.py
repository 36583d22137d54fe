"""Each filter of the tokeniser's first layer answers the tone that it is made for."""

import numpy as np

from melody_jax.models.front_kernels import gabor_kernel


def test_gabor_filters_answer_their_own_frequency():
  kernel = gabor_kernel(24, 960, 24_000)[:, 0]
  magnitude = np.hypot(*(np.abs(kernel.T @ kernel)[:24] ** 2).reshape(24, 2, 24).transpose(1, 0, 2))
  np.testing.assert_array_equal(magnitude.argmax(axis=1), np.arange(24))
