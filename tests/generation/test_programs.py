"""Compiling once, timing apart, and the message where memory does not suffice."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.generation.programs import Programs, out_of_memory_message
from melody_jax.host.chips import GIB


def test_a_program_is_compiled_once_per_shape():
  calls = []

  def double(x):
    calls.append(x.shape)
    return 2 * x

  table = Programs()
  np.testing.assert_array_equal(table.call("double", double, np.ones(3)), [2, 2, 2])
  spent = table.compile_seconds
  assert spent > 0
  table.call("double", double, np.zeros(3))
  assert calls == [(3,)] and table.compile_seconds == spent
  table.call("double", double, np.zeros(4))
  assert calls == [(3,), (4,)] and table.compile_seconds > spent


def test_what_compiles_by_itself_counts_the_first_time():
  table = Programs()
  assert table.first_counts_as_compiling("a", lambda: jnp.ones(2)).shape == (2,)
  spent = table.compile_seconds
  table.first_counts_as_compiling("a", lambda: jnp.ones(2))
  assert table.compile_seconds == spent > 0


def _compiled(parameters, per_item, batch):
  analysis = types.SimpleNamespace(
    argument_size_in_bytes=parameters,
    generated_code_size_in_bytes=0,
    temp_size_in_bytes=per_item * batch,
    output_size_in_bytes=0,
  )
  return types.SimpleNamespace(memory_analysis=lambda: analysis)


def test_the_message_names_a_batch_that_fits():
  gib = GIB
  text = out_of_memory_message("window", _compiled(2 * gib, gib, 16), 16, 12 * gib)
  assert "batch of 16, which needs 18.00 of 12.00 GiB: a batch of 10 fits" in text
  assert "steps" in text
  # The compiler thought that it fits: one fewer is the best guess.
  assert "batch of 3 fits" in out_of_memory_message("window", _compiled(0, gib, 4), 4, 12 * gib)
  assert "no batch fits" in out_of_memory_message(
    "window", _compiled(2 * gib, 3 * gib, 2), 2, 4 * gib
  )
  assert "try 8" in out_of_memory_message("window", None, 16, None)


def test_running_out_of_memory_is_one_line(monkeypatch):
  def run(*args):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes")

  table = Programs()
  table.call("window:float32", jnp.negative, np.ones(3), batch=16)
  (key,) = table._compiled
  table._compiled[key] = type("Full", (), {"__call__": run, "memory_analysis": lambda s: None})()
  with pytest.raises(UserError, match="out of memory on cpu in the program 'window' with a batch"):
    table.call("window:float32", jnp.negative, np.ones(3), batch=16)

  def broken(*args):
    raise jax.errors.JaxRuntimeError("INTERNAL: something else")

  table._compiled[key] = broken
  with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
    table.call("window:float32", jnp.negative, np.ones(3), batch=16)
