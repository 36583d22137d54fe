"""Continuous-time diffusion in angle form, as pure functions (docs/spec.md, section 6).

delta in [0, pi/2] is the noise angle: 0 is clean, pi/2 is pure noise.

    z_delta = cos(delta) z + sin(delta) eps            eps ~ N(0, I)
    v       = cos(delta) eps - sin(delta) z            (velocity, Salimans & Ho 2022)

Every frame has an angle of its own, so some frames may be clean while others are noise. Inpainting
and continuation are built on that.

Shape letters: B batch, L latent frames, D latent size, M chunks, T denoising steps.
"""

from collections.abc import Callable
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from melody_jax.errors import UserError

HALF_PI = math.pi / 2

VelocityFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _per_frame(delta_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
  return jnp.cos(delta_BxL)[..., None], jnp.sin(delta_BxL)[..., None]


def add_noise(z_BxLxD: jax.Array, noise_BxLxD: jax.Array, delta_BxL: jax.Array) -> jax.Array:
  """Noisy latents [B, L, D]: z_delta = cos(delta) z + sin(delta) eps."""
  cos, sin = _per_frame(delta_BxL)
  return cos * z_BxLxD + sin * noise_BxLxD


def velocity(z_BxLxD: jax.Array, noise_BxLxD: jax.Array, delta_BxL: jax.Array) -> jax.Array:
  """Velocity [B, L, D]: v = cos(delta) eps - sin(delta) z, the derivative of z_delta by delta."""
  cos, sin = _per_frame(delta_BxL)
  return cos * noise_BxLxD - sin * z_BxLxD


def angle_step(z_delta_BxLxD: jax.Array, v_BxLxD: jax.Array, omega_BxL: jax.Array) -> jax.Array:
  """DDIM in angle form: z_{delta - omega} = cos(omega) z_delta - sin(omega) v.

  omega = delta gives the clean latents, omega = delta - pi/2 the noise.
  """
  cos, sin = _per_frame(omega_BxL)
  return cos * z_delta_BxLxD - sin * v_BxLxD


def preconditioning(
  delta_BxL: jax.Array, latent_std: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Scales that keep the input and the target of a network at unit variance, each [B, L].

  For clean latents with standard deviation s, z_delta has the variance t^2 = cos^2 s^2 + sin^2. The
  best linear guess of the velocity is a z_delta; its error has the standard deviation s / t:

      v_hat = a z_delta + (s / t) network(z_delta / t),     a = sin cos (1 - s^2) / t^2

  (the preconditioning of Karras et al. 2022, arXiv 2206.00364, in angle form; choice). A network
  that returns zero is then the best linear predictor. s = 1 gives 1, 0, 1: the plain form.

  Args:
    delta_BxL: Angle of every frame.
    latent_std: Standard deviation s of the clean latents.

  Returns:
    (1 / t, a, s / t), each [B, L].
  """
  cos, sin = jnp.cos(delta_BxL), jnp.sin(delta_BxL)
  # Latents and noise are independent, so their variances add.
  power = jnp.square(cos * latent_std) + jnp.square(sin)
  scale = jax.lax.rsqrt(power)
  return scale, sin * cos * (1.0 - latent_std**2) / power, latent_std * scale


def chunk_of_frames(length: int, chunks: int) -> np.ndarray:
  """Number of the chunk that each of L frames lies in, int [L]; lengths differ by one at most."""
  # Integer arithmetic spreads frames that do not divide over all chunks.
  return np.arange(length) * chunks // length


def chunk_angles(rng: jax.Array, batch: int, length: int, chunks: int) -> jax.Array:
  """Draws training angles delta_m ~ U[0, pi/2], one per chunk, repeated to frames [B, L].

  The L frames are cut into M chunks as `chunk_of_frames` does. The draws of a batch are stratified:
  [0, pi/2] is cut into B M equal parts, and each part gets one chunk at random (choice: the mean
  loss of a batch varies less).

  Args:
    rng: Key of the draws.
    batch: Number B of rows.
    length: Number L of frames.
    chunks: Number M of chunks in a row.

  Raises:
    UserError: if there are fewer frames than chunks; some chunks would then have no frame.
  """
  if not 1 <= chunks <= length:
    raise UserError(f"{length} frames cannot be cut into {chunks} chunks: each needs one at least")
  part_rng, place_rng = jax.random.split(rng)
  count = batch * chunks
  # Every part of the range once a batch: the loss depends on the angle more than on anything else
  # that is drawn.
  part = jax.random.permutation(part_rng, count).reshape(batch, chunks)
  place = jax.random.uniform(place_rng, (batch, chunks))
  delta_BxM = HALF_PI * (part + place) / count
  return delta_BxM[:, chunk_of_frames(length, chunks)]


def guide(
  conditional: jax.Array,
  unconditional: jax.Array,
  scale: jax.Array | float,
  rescale: jax.Array | float = 0.0,
) -> jax.Array:
  """Classifier-free guidance (Ho & Salimans 2022): v = v_u + s (v_c - v_u), [B, L, D].

  A large s makes the standard deviation of each row too large. `rescale` pulls it back to that of
  the conditional prediction (Lin et al. 2023, arXiv 2305.08891):

      v' = rescale * v * std(v_c) / std(v) + (1 - rescale) * v

  Args:
    conditional: Velocity v_c with the condition [B, L, D].
    unconditional: Velocity v_u without it [B, L, D].
    scale: Guidance scale s, a number or an array [B, 1, 1].
    rescale: Share of the correction in [0, 1], a number or an array [B, 1, 1].
  """
  # Beyond the conditional prediction, away from the unconditional one.
  guided = unconditional + scale * (conditional - unconditional)
  std_conditional = jnp.std(conditional, axis=(1, 2), keepdims=True)
  std_guided = jnp.std(guided, axis=(1, 2), keepdims=True)
  # Rows of zeros (padding, an untrained network) must not divide by zero.
  factor = std_conditional / jnp.maximum(std_guided, 1e-8)
  return guided * (rescale * factor + (1.0 - rescale))


def angles_before(omegas_T: jax.Array) -> jax.Array:
  """Angle before each step [T]: the sum of the steps that are still to come.

  Summed from the end, so that the last angle is exact.
  """
  return jnp.cumsum(omegas_T[::-1])[::-1]


def start_latents(
  noise_BxLxD: jax.Array, known_BxLxD: jax.Array, share_BxL: jax.Array
) -> jax.Array:
  """Latents [B, L, D] to start from: `known` with noise of the angle share * pi/2.

  A share of 0 gives exactly `known`, a share of 1 exactly the noise.
  """
  partly = add_noise(known_BxLxD, noise_BxLxD, HALF_PI * share_BxL)
  # cos(pi/2) is not 0 in floating point: without `where` a trace of `known` would stay.
  return jnp.where(share_BxL[..., None] >= 1.0, noise_BxLxD, partly)


def solve(
  velocity_fn: VelocityFn,
  z_BxLxD: jax.Array,
  share_BxL: jax.Array,
  omegas_T: jax.Array | np.ndarray,
  n_steps: jax.Array | int | None = None,
  second_order: jax.Array | float = 0.0,
) -> jax.Array:
  """Integrates dz / d delta = v from the start angles down to 0, in one loop.

  Every frame goes through its own share of the angles: when the angle of a step is delta, the frame
  is at share * delta and moves by w = share * omega. First order is DDIM in angle form,

      z <- cos(w) z - sin(w) v.

  It is exact as long as the predicted clean latents and noise do not change. Second order corrects
  the error that the last step made (choice; two-step Adams-Bashforth on that exact solution). The
  last angle was larger by w'; from there the velocity was expected to become
  u = cos(w') v' + sin(w') z', so

      z <- cos(w) z - sin(w) (v + b (v - u)),     b = tan(w / 2) / sin(w')

  It costs no network pass. The first step is always of first order.

  Args:
    velocity_fn: Maps (z [B, L, D], angles of the frames [B, L], angle of the step, a scalar) to the
      velocity [B, L, D].
    z_BxLxD: Latents at the angles share * pi/2.
    share_BxL: Shares in [0, 1]; frames with share 0 are returned unchanged.
    omegas_T: Angle steps, from the noisiest to the cleanest. Those after `n_steps` are zero and are
      not taken.
    n_steps: Number of steps that are taken, may be traced; None means all.
    second_order: 1 or 0, may be traced.

  Returns:
    Clean latents [B, L, D].
  """
  omegas_T = jnp.asarray(omegas_T, z_BxLxD.dtype)
  # From the steps that are given, so that the angles sum exactly, padding of zeros and all.
  deltas_T = angles_before(omegas_T)

  def step(t, carry):
    z, expected = carry
    v = velocity_fn(z, share_BxL * deltas_T[t], deltas_T[t])
    # At the first step t - 1 would be -1, which is the last entry and no step at all.
    w, before = share_BxL * omegas_T[t], share_BxL * omegas_T[jnp.maximum(t - 1, 0)]
    # A frame at share 0 does not move: sin(w') would be 0, and `where` keeps the NaN out.
    moves = (t > 0) & (before > 0)
    b = second_order * jnp.where(moves, jnp.tan(w / 2) / jnp.sin(jnp.where(moves, before, 1.0)), 0)
    # What v becomes if clean latents and noise are as predicted: the next step compares.
    cos, sin = _per_frame(w)
    return angle_step(z, v + b[..., None] * (v - expected), w), cos * v + sin * z

  # A loop, not an unrolled program: the number of steps then changes without compiling.
  taken = len(omegas_T) if n_steps is None else n_steps
  return lax.fori_loop(0, taken, step, (z_BxLxD, jnp.zeros_like(z_BxLxD)))[0]


def sample(
  velocity_fn: VelocityFn,
  noise_BxLxD: jax.Array,
  omegas_T: jax.Array | np.ndarray,
  known_BxLxD: jax.Array | None = None,
  known_BxL: jax.Array | None = None,
  n_steps: jax.Array | int | None = None,
  second_order: jax.Array | float = 0.0,
) -> jax.Array:
  """Denoises from delta = pi/2 to 0 in T angle steps; see `solve`.

  Args:
    velocity_fn: Velocity, as in `solve`; guidance, if any, is inside it.
    noise_BxLxD: N(0, I) start.
    omegas_T: Angle steps, largest noise first (`generation.schedules`).
    known_BxLxD: Clean latents for inpainting, continuation or variation.
    known_BxL: How far each frame is known, bool, or float in [0, 1]. Frames at 1 stay at delta = 0
      and are returned unchanged, frames at m start from `known` with noise of the angle
      (1 - m) pi/2.
    n_steps: Number of steps that are taken, may be traced; None means all.
    second_order: 1 or 0, may be traced.

  Returns:
    Clean latents [B, L, D].
  """
  z_start, share_BxL = noise_BxLxD, jnp.ones(noise_BxLxD.shape[:2], noise_BxLxD.dtype)
  if known_BxL is not None and known_BxLxD is not None:
    share_BxL = 1.0 - known_BxL.astype(noise_BxLxD.dtype)
    z_start = start_latents(noise_BxLxD, known_BxLxD, share_BxL)
  return solve(velocity_fn, z_start, share_BxL, omegas_T, n_steps, second_order)
