"""Continuous-time diffusion in angle form, as pure functions (docs/spec.md, section 6).

delta in [0, pi/2] is the noise angle: 0 is clean, pi/2 is pure noise.

    z_delta = cos(delta) z + sin(delta) eps            eps ~ N(0, I)
    v       = cos(delta) eps - sin(delta) z            (velocity, Salimans & Ho 2022)

Every frame has an angle of its own, so some frames may be clean while others are noise:
that is what inpainting and continuation are made of.

Shape letters: B batch, L latent frames, D latent size, M chunks, T denoising steps.
"""

from collections.abc import Callable
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

HALF_PI = math.pi / 2

VelocityFn = Callable[[jax.Array, jax.Array], jax.Array]


def linear_schedule(steps: int) -> np.ndarray:
  """Angle steps of the paper, in the order they are taken (t = T down to 1): float32 [T].

      omega_t = pi / (6 T) + 2 pi t / (3 T (T + 1)),      sum over t = pi / 2

  Large steps come first, where there is most noise.
  """
  t = np.arange(steps, 0, -1, dtype=np.float64)
  return (math.pi / (6 * steps) + 2 * math.pi * t / (3 * steps * (steps + 1))).astype(np.float32)


def uniform_schedule(steps: int) -> np.ndarray:
  """omega_t = pi / (2 T) (Schneider et al. 2023, arXiv 2301.11757): float32 [T]."""
  return np.full((steps,), HALF_PI / steps, dtype=np.float32)


SCHEDULES = {"linear": linear_schedule, "uniform": uniform_schedule}


def angle_schedule(name: str, steps: int) -> np.ndarray:
  """Angle steps [T] summing to pi/2, largest noise first.

  Raises:
    ValueError: for an unknown name or fewer than one step.
  """
  if name not in SCHEDULES:
    raise ValueError(f"angle schedule {name!r}; known: {', '.join(SCHEDULES)}")
  if steps < 1:
    raise ValueError(f"{steps} denoising steps; at least 1 is needed")
  return SCHEDULES[name](steps)


def _per_frame(delta_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
  return jnp.cos(delta_BxL)[..., None], jnp.sin(delta_BxL)[..., None]


def add_noise(z_BxLxD: jax.Array, noise_BxLxD: jax.Array, delta_BxL: jax.Array) -> jax.Array:
  """z_delta = cos(delta) z + sin(delta) eps."""
  cos, sin = _per_frame(delta_BxL)
  return cos * z_BxLxD + sin * noise_BxLxD


def velocity(z_BxLxD: jax.Array, noise_BxLxD: jax.Array, delta_BxL: jax.Array) -> jax.Array:
  """v = cos(delta) eps - sin(delta) z, the derivative of z_delta with respect to delta."""
  cos, sin = _per_frame(delta_BxL)
  return cos * noise_BxLxD - sin * z_BxLxD


def predict_clean(z_delta_BxLxD: jax.Array, v_BxLxD: jax.Array, delta_BxL: jax.Array) -> jax.Array:
  """z = cos(delta) z_delta - sin(delta) v."""
  cos, sin = _per_frame(delta_BxL)
  return cos * z_delta_BxLxD - sin * v_BxLxD


def predict_noise(z_delta_BxLxD: jax.Array, v_BxLxD: jax.Array, delta_BxL: jax.Array) -> jax.Array:
  """eps = sin(delta) z_delta + cos(delta) v."""
  cos, sin = _per_frame(delta_BxL)
  return sin * z_delta_BxLxD + cos * v_BxLxD


def angle_step(z_delta_BxLxD: jax.Array, v_BxLxD: jax.Array, omega_BxL: jax.Array) -> jax.Array:
  """DDIM in angle form: z_{delta - omega} = cos(omega) z_delta - sin(omega) v."""
  cos, sin = _per_frame(omega_BxL)
  return cos * z_delta_BxLxD - sin * v_BxLxD


def preconditioning(
  delta_BxL: jax.Array, latent_std: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Scales that keep a network's input and target at unit variance, each [B, L].

  For clean latents of spread s, z_delta has the variance t^2 = cos^2 s^2 + sin^2, and what the
  best linear guess a z_delta leaves of the velocity has the spread s / t:

      v_hat = a z_delta + (s / t) network(z_delta / t),     a = sin cos (1 - s^2) / t^2

  (the preconditioning of Karras et al. 2022, arXiv 2206.00364, in angle form; choice). A network
  that returns zero is then the best linear predictor. s = 1 gives 1, 0, 1: the plain form.

  Returns:
    (1 / t, a, s / t).
  """
  cos, sin = jnp.cos(delta_BxL), jnp.sin(delta_BxL)
  power = jnp.square(cos * latent_std) + jnp.square(sin)
  scale = jax.lax.rsqrt(power)
  return scale, sin * cos * (1.0 - latent_std**2) / power, latent_std * scale


def chunk_angles(rng: jax.Array, batch: int, length: int, chunks: int) -> jax.Array:
  """Training angles: delta_m ~ U[0, pi/2], independent per chunk, repeated to frames [B, L].

  The L frames are cut into M chunks whose lengths differ by one at most. A row's M angles are
  drawn apart from each other, those of the batch stratified: B M draws fall one each into B M equal
  parts of [0, pi/2] (choice; the sum over a batch is less of an accident).
  """
  part_rng, place_rng = jax.random.split(rng)
  count = batch * chunks
  part = jax.random.permutation(part_rng, count).reshape(batch, chunks)
  place = jax.random.uniform(place_rng, (batch, chunks))
  delta_BxM = HALF_PI * (part + place) / count
  return delta_BxM[:, np.arange(length) * chunks // length]


def guide(
  conditional: jax.Array,
  unconditional: jax.Array,
  scale: jax.Array | float,
  rescale: jax.Array | float = 0.0,
) -> jax.Array:
  """Classifier-free guidance: v = v_u + s (v_c - v_u), [B, L, D].

  `rescale` in [0, 1] draws the standard deviation of each row back towards that of the
  conditional prediction, which a large s inflates (Lin et al. 2023, arXiv 2305.08891):

      v' = rescale * v * std(v_c) / std(v) + (1 - rescale) * v

  `scale` and `rescale` are numbers or arrays of shape [B, 1, 1].
  """
  guided = unconditional + scale * (conditional - unconditional)
  std_conditional = jnp.std(conditional, axis=(1, 2), keepdims=True)
  std_guided = jnp.std(guided, axis=(1, 2), keepdims=True)
  factor = std_conditional / jnp.maximum(std_guided, 1e-8)
  return guided * (rescale * factor + (1.0 - rescale))


def angles_before(omegas_T: jax.Array) -> jax.Array:
  """The angle before each step: the sum of the steps still to come, so no error accumulates."""
  return jnp.cumsum(omegas_T[::-1])[::-1]


def start_latents(
  noise_BxLxD: jax.Array, known_BxLxD: jax.Array, share_BxL: jax.Array
) -> jax.Array:
  """`known` noised to the angle share * pi/2: exactly `known` at 0 and exactly the noise at 1."""
  partly = add_noise(known_BxLxD, noise_BxLxD, HALF_PI * share_BxL)
  return jnp.where(share_BxL[..., None] >= 1.0, noise_BxLxD, partly)


def solve(
  velocity_fn: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  z_BxLxD: jax.Array,
  share_BxL: jax.Array,
  omegas_T: jax.Array | np.ndarray,
  n_steps: jax.Array | int | None = None,
  second_order: jax.Array | float = 0.0,
) -> jax.Array:
  """Integrates dz / d delta = v from the start angles down to 0, in one loop.

  Every frame goes through its own share of the angles: at a step whose angle is delta it lies at
  share * delta and moves by w = share * omega. First order is DDIM in angle form,

      z <- cos(w) z - sin(w) v,

  exact while clean latents and noise as predicted stay the same. Second order adds what the last
  step got wrong (choice; two-step Adams-Bashforth on that exact solution): from the last angle,
  w' before this one, v was expected to be u = cos(w') v' + sin(w') z', and

      z <- cos(w) z - sin(w) (v + b (v - u)),     b = tan(w / 2) / sin(w')

  It costs no network pass, and the first step is of first order.

  Args:
    velocity_fn: (z [B, L, D], angles of the frames [B, L], angle of the step, scalar) -> v.
    z_BxLxD: latents at the angles share * pi/2.
    share_BxL: in [0, 1]; frames at 0 are returned unchanged.
    omegas_T: angle steps, largest noise first; what follows `n_steps` is zero and not taken.
    n_steps: how many are taken; may be traced. None: all.
    second_order: 1 or 0; may be traced.

  Returns:
    Clean latents [B, L, D].
  """
  omegas_T = jnp.asarray(omegas_T, z_BxLxD.dtype)
  deltas_T = angles_before(omegas_T)

  def step(t, carry):
    z, expected = carry
    v = velocity_fn(z, share_BxL * deltas_T[t], deltas_T[t])
    w, before = share_BxL * omegas_T[t], share_BxL * omegas_T[jnp.maximum(t - 1, 0)]
    moves = (t > 0) & (before > 0)
    b = second_order * jnp.where(moves, jnp.tan(w / 2) / jnp.sin(jnp.where(moves, before, 1.0)), 0)
    cos, sin = _per_frame(w)
    return angle_step(z, v + b[..., None] * (v - expected), w), cos * v + sin * z

  taken = len(omegas_T) if n_steps is None else n_steps
  return lax.fori_loop(0, taken, step, (z_BxLxD, jnp.zeros_like(z_BxLxD)))[0]


def sample(
  velocity_fn: VelocityFn,
  noise_BxLxD: jax.Array,
  omegas_T: jax.Array | np.ndarray,
  known_BxLxD: jax.Array | None = None,
  known_mask_BxL: jax.Array | None = None,
  second_order: jax.Array | float = 0.0,
) -> jax.Array:
  """Denoises from delta = pi/2 to 0 in T angle steps; see `solve`.

  Args:
    velocity_fn: (z [B, L, D], delta [B, L]) -> v [B, L, D]; guidance, if any, is inside it.
    noise_BxLxD: N(0, I) start.
    omegas_T: angle steps, largest noise first (`angle_schedule`).
    known_BxLxD: clean latents for inpainting, continuation or variation.
    known_mask_BxL: bool, or float in [0, 1]; frames at 1 stay at delta = 0 and are returned
      unchanged, frames at m start from `known` with noise of the angle (1 - m) pi/2.
    second_order: 1 or 0.

  Returns:
    Clean latents [B, L, D].
  """
  z_start, share_BxL = noise_BxLxD, jnp.ones(noise_BxLxD.shape[:2], noise_BxLxD.dtype)
  if known_mask_BxL is not None and known_BxLxD is not None:
    share_BxL = 1.0 - known_mask_BxL.astype(noise_BxLxD.dtype)
    z_start = start_latents(noise_BxLxD, known_BxLxD, share_BxL)
  return solve(
    lambda z, delta, _: velocity_fn(z, delta),
    z_start,
    share_BxL,
    omegas_T,
    second_order=second_order,
  )
