"""The SRU recurrence: fast form against the plain scan and against the `sru` package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.kernels.sru import sru, sru_reference

K, R, H = 7, 5, 6


def _arguments(seed=0, k=K, rows=R, hidden=H):
  keys = jax.random.split(jax.random.key(seed), 3)
  sequences = jax.random.normal(keys[0], (4, k, rows, 2 * hidden))
  vectors = (jax.random.normal(key, (2, 2 * hidden)) for key in keys[1:])
  return (*sequences, *vectors)


def _values_and_gradients(recurrence, arguments):
  def loss(*arguments):
    h = recurrence(*arguments)
    return jnp.sum(jnp.sin(3.0 * h)), h

  gradient = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments))), has_aux=True))
  return gradient(*arguments)


def test_fast_form_equals_plain_scan_with_gradients():
  arguments = _arguments()
  got, want = (_values_and_gradients(f, arguments) for f in (sru, sru_reference))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_recurrence_by_hand():
  arguments = _arguments(k=3, rows=1, hidden=1)
  u_c, u_f, u_r, skip, cell, bias = (np.asarray(a, np.float64) for a in arguments)

  def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))

  want = np.zeros((3, 2))
  for j, order in enumerate(([0, 1, 2], [2, 1, 0])):
    c = 0.0
    for k in order:
      f = sigmoid(u_f[k, 0, j] + cell[0, j] * c + bias[0, j])
      r = sigmoid(u_r[k, 0, j] + cell[1, j] * c + bias[1, j])
      c = f * c + (1 - f) * u_c[k, 0, j]
      want[k, j] = r * c + (1 - r) * skip[k, 0, j]
  np.testing.assert_allclose(sru_reference(*arguments)[:, 0], want, atol=1e-5)


def test_directions_mirror_each_other():
  arguments = _arguments(1)
  swapped = [jnp.roll(a, H, axis=-1) for a in arguments]
  mirrored = sru(*(a[::-1] for a in swapped[:4]), *swapped[4:])[::-1]
  np.testing.assert_allclose(sru(*arguments), jnp.roll(mirrored, H, axis=-1), atol=1e-6)


def test_bfloat16_keeps_its_dtype_and_a_float32_state():
  arguments = _arguments(2, k=40)
  got = sru(*(a.astype(jnp.bfloat16) for a in arguments[:4]), *arguments[4:])
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), sru_reference(*arguments), atol=5e-2)


@pytest.mark.parity
@pytest.mark.parametrize("matrices", [3, 4])
def test_parity_with_sru_package(matrices, monkeypatch):
  torch = pytest.importorskip("torch", reason="parity tests need the [parity] extra")
  cpp_extension = pytest.importorskip("torch.utils.cpp_extension")
  with monkeypatch.context() as patch:
    # On import it compiles C++ for inference, half a minute; with gradients it computes in Python.
    patch.setattr(cpp_extension, "load", lambda **_: None)
    patch.setattr(torch.jit, "script", lambda function: function)
    package = pytest.importorskip("sru", reason="parity tests need the [parity] extra")
  size = 2 * H if matrices == 3 else 9
  torch.manual_seed(0)
  cell = package.SRUCell(size, H, bidirectional=True, rescale=False)
  cell.bias.data.normal_()
  x = torch.randn(K, R, size, requires_grad=True)
  with pytest.warns(UserWarning, match="grad_enabled"):
    h, _ = cell(x)
  torch.sum(torch.sin(3.0 * h)).backward()

  # The package's columns are [direction, hidden, matrix], its vectors [gate, direction, hidden].
  def package_layout(x, weight, weight_c, bias):
    u = jnp.dot(x, weight).reshape(K, R, 2 * H, matrices)
    skip = u[..., 3] if matrices == 4 else x
    vectors = (a.reshape(2, 2 * H) for a in (weight_c, bias))
    return sru(u[..., 0], u[..., 1], u[..., 2], skip, *vectors)

  parameters = (x, cell.weight, cell.weight_c, cell.bias)
  gradients, got = _values_and_gradients(
    package_layout, [jnp.asarray(p.detach().numpy()) for p in parameters]
  )
  np.testing.assert_allclose(got, h.detach().numpy(), atol=1e-5)
  for gradient, parameter in zip(gradients, parameters, strict=True):
    np.testing.assert_allclose(gradient, parameter.grad.numpy(), atol=1e-4)
