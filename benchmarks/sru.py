"""Compares several forms of the SRU recurrence on this device, at the shapes that models use.

    python -m benchmarks.sru --rows=66 --steps=32 --hidden=96

All forms compute the same, which is checked here. They differ in how the K steps are arranged:
`scan` is the CPU path of `melody_jax.kernels.sru`. Times are medians in milliseconds: wall time,
and in brackets processor time, which other work on the machine disturbs less. The default shape is
one guided pass of the nano DPD (2 rows x 33 segments, K = 32, 96 hidden units per direction).

Shapes of a form's arguments: candidate, forget, reset and skip [K, R, 2 H], both directions side by
side; cell and bias [2, 2 H]. The result is [K, R, 2 H].
"""

from collections.abc import Callable
import functools
import time

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from benchmarks.device import hardware_name
from melody_jax.command_line.flags import Parser, at_least_one
from melody_jax.command_line.flags import run as run_command
from melody_jax.kernels import sru

Form = Callable[..., jax.Array]


def _cell(cell, bias):
  """Makes one step of the state c, [R, H] for one direction or [R, 2 H] for both."""

  def step(c, inputs):
    u_c, u_f = inputs
    f = jax.nn.sigmoid(u_f + (cell[0] * c + bias[0]))
    c = u_c + f * (c - u_c)
    return c, c

  return step


def _finish(c, previous, reset, skip, cell, bias):
  r = jax.nn.sigmoid(reset + cell[1] * previous + bias[1])
  return skip + r * (c - skip)


def unrolled(candidate, forget, reset, skip, cell, bias, unroll: int):
  """`sru_scan` with `unroll` steps in one iteration: [K, R, 2 H] (see the head of this file)."""
  halves = []
  for reverse, (u_c, u_f, v, b) in enumerate(
    zip(*(jnp.split(x, 2, axis=-1) for x in (candidate, forget, cell, bias)), strict=True)
  ):
    zero = jnp.zeros_like(u_c[0])
    _, c = lax.scan(
      _cell(v[:, None], b[:, None]), zero, (u_c, u_f), reverse=bool(reverse), unroll=unroll
    )
    # The reset gate reads the state before each step; in reverse that is the state after it.
    previous = (
      jnp.concatenate([c[1:], zero[None]]) if reverse else jnp.concatenate([zero[None], c[:-1]])
    )
    halves.append((c, previous))
  c, previous = (jnp.concatenate(x, axis=-1) for x in zip(*halves, strict=True))
  return _finish(c, previous, reset, skip, cell[:, None, None], bias[:, None, None])


def one_scan(candidate, forget, reset, skip, cell, bias, unroll: int = 1):
  """Both directions in one scan, [K, R, 2 H]: half as many steps, each twice as wide.

  The arrays of the reverse direction are turned around in time.
  """

  def turn(x):
    forward, reverse = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([forward, reverse[::-1]], axis=-1)

  u_c, u_f = turn(candidate), turn(forget)
  zero = jnp.zeros_like(u_c[0])
  _, c = lax.scan(_cell(cell[:, None], bias[:, None]), zero, (u_c, u_f), unroll=unroll)
  previous = jnp.concatenate([zero[None], c[:-1]])
  c, previous = turn(c), turn(previous)
  return _finish(c, previous, reset, skip, cell[:, None, None], bias[:, None, None])


def blocked(candidate, forget, reset, skip, cell, bias, rows: int):
  """`sru_scan` on `rows` rows at a time, [K, R, 2 H]: the states of all K steps fit the cache."""
  k, total, width = skip.shape
  blocks = -(-total // rows)

  def cut(x):
    # Rows of zeros fill the last block, so that all blocks have one shape.
    x = jnp.pad(x, ((0, 0), (0, blocks * rows - total), (0, 0)))
    return x.reshape(k, blocks, rows, width).transpose(1, 0, 2, 3)

  h = lax.map(
    lambda block: sru.sru_scan(*block, cell, bias),
    tuple(cut(x) for x in (candidate, forget, reset, skip)),
  )
  return h.transpose(1, 0, 2, 3).reshape(k, blocks * rows, width)[:, :total]


def forms(steps: int) -> dict[str, Form]:
  """All forms as {name: form}, for K = `steps`."""
  found: dict[str, Form] = {"plain scan": sru.sru_reference, "scan": sru.sru_scan}
  for unroll in sorted({2, 4, 8, steps}):
    found[f"unrolled by {unroll}"] = functools.partial(unrolled, unroll=unroll)
  found["both directions in one scan"] = one_scan
  found["both in one, unrolled by 4"] = functools.partial(one_scan, unroll=4)
  for rows in (8, 16, 32):
    found[f"blocks of {rows} rows"] = functools.partial(blocked, rows=rows)
  return found


def measure(function: Callable[[], jax.Array], repeats: int) -> tuple[float, float]:
  """Median time of a call in seconds: (wall time, processor time)."""
  jax.block_until_ready(function())
  wall, processor = [], []
  for _ in range(repeats):
    began, used = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    wall.append(time.perf_counter() - began)
    processor.append(time.process_time() - used)
  return float(np.median(wall)), float(np.median(processor))


def main() -> None:
  """Prints the table of all forms."""
  p = Parser(__doc__.split("\n")[0] if __doc__ else None)
  p.add_argument("--rows", type=at_least_one, default=66, help="rows R: batch times segments")
  p.add_argument("--steps", type=at_least_one, default=32, help="steps K of the recurrence")
  p.add_argument("--hidden", type=at_least_one, default=96, help="units H of one direction")
  p.add_argument("--repeats", type=at_least_one, default=30, help="calls that are timed")
  arguments = p.parse_args()
  k, rows, hidden = arguments.steps, arguments.rows, arguments.hidden
  keys = jax.random.split(jax.random.key(0), 6)
  arrays = [jax.random.normal(key, (k, rows, 2 * hidden)) for key in keys[:4]]
  arrays += [jax.random.normal(key, (2, 2 * hidden)) for key in keys[4:]]
  want = sru.sru_reference(*arrays)
  print(f"{hardware_name()}, jax {jax.__version__}; K = {k}, R = {rows}, H = {hidden}, float32")
  print(f"{'form':30s} {'sampling, ms':>18s} {'with gradient, ms':>20s} {'compile, s':>11s}")
  for name, form in forms(k).items():
    began = time.perf_counter()
    run = jax.jit(form).lower(*arrays).compile()
    compile_seconds = time.perf_counter() - began
    # A form that computes something else must not win.
    np.testing.assert_allclose(run(*arrays), want, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda *a, f=form: jnp.sum(jnp.square(f(*a)))))
    figures = [measure(functools.partial(f, *arrays), arguments.repeats) for f in (run, gradient)]
    cells = [f"{1e3 * wall:8.2f} ({1e3 * used:6.2f})" for wall, used in figures]
    print(f"{name:30s} {cells[0]:>18s} {cells[1]:>20s} {compile_seconds:11.2f}", flush=True)


if __name__ == "__main__":
  run_command(main)
