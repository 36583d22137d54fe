"""Principal axes of a corpus' spectra, and a codec born as them."""

import numpy as np

from melody_jax.fitting.axes import principal_axes
from melody_jax.fitting.latents import axis_gains


def test_axes_are_those_of_the_covariance():
  rng = np.random.default_rng(0)
  basis, _ = np.linalg.qr(rng.standard_normal((5, 5)))
  values = np.array([9.0, 4.0, 1.0, 0.5, 0.1])
  covariance = basis @ np.diag(values) @ basis.T
  encoder, decoder, explained = principal_axes(covariance, 2)
  assert abs(explained - 13.0 / values.sum()) < 1e-9
  np.testing.assert_allclose(encoder.T @ covariance @ encoder, np.eye(2), atol=1e-9)  # unit spread
  np.testing.assert_allclose(
    encoder @ decoder, basis[:, :2] @ basis[:, :2].T, atol=1e-9
  )  # a projection


def test_gains_are_roots_of_the_spreads_and_have_the_spread_asked_for():
  gains = axis_gains(np.array([9.0, 4.0, 1.0]), whitening=0.5, spread=0.4)
  np.testing.assert_allclose(gains / gains[2], [3.0, 2.0, 1.0], rtol=1e-6)
  np.testing.assert_allclose(np.sqrt(np.mean((gains / 3) ** 2)), 0.4, rtol=1e-6)
  np.testing.assert_allclose(axis_gains(np.array([9.0, 1.0]), 1.0, 1 / 3), 1.0, rtol=1e-6)
