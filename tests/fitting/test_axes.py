"""Principal axes of a corpus' spectra, and a codec born as them."""

import numpy as np

from melody_jax.fitting.axes import principal_axes


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
