"""The denoiser's velocity error and SI-SNR gain on held-out latents, beside simpler predictors'."""

from collections.abc import Callable
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from melody_jax import diffusion
from melody_jax.denoisers import choice
from melody_jax.evaluation.clips import batches, datasets_of, stack_clips
from melody_jax.evaluation.features import Encoders, encoded_windows
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.metrics.diffusion import linear_predictor_gain, si_snr_gain
from melody_jax.progress import Progress, print_progress

# (noisy latents [B, L, D], angles [B, L], semantic tokens [B, T], conditional [B]) -> v [B, L, D]
Velocity = Callable[[Any, Any, Any, Any], jax.Array]
PREDICTORS = ("constant", "linear", "right", "shuffled", "none")
# A constant has no gain in its favour: it says nothing about the latents at hand.
GAINS = ("linear", "right", "shuffled", "none")
BUCKETS = 6


def load_denoiser(bundle: str | os.PathLike) -> tuple[Velocity, int]:
  """Loads the denoiser of a bundle: the DPD, or what stands in its place.

  Returns:
    (velocity, chunks): the network as a jitted function with the shapes of `Velocity`, and the
    number M of chunks in a training window.

  Raises:
    UserError: if the bundle has none, or a damaged one.
  """
  model, params = choice.load(bundle)
  params = jax.tree.map(jnp.asarray, params)
  # Parameters are an argument, not a constant of the program: XLA would fold and copy them.
  apply = jax.jit(lambda params, *args: model.apply({"params": params}, *args))
  return lambda *args: apply(params, *args), model.config.chunks


def other_tracks(tracks_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draws for every window the index of a window of another track.

  Where all windows belong to one track, another window of that track is drawn.

  Args:
    tracks_N: Track number of every window [N].
    rng: Source of the draws.

  Returns:
    Indices, int64 [N].

  Raises:
    ValueError: if there is only one window.
  """
  n = len(tracks_N)
  if n < 2:
    raise ValueError("one window alone cannot be given another's tokens")
  chosen = []
  for i, track in enumerate(tracks_N):
    others = np.flatnonzero(tracks_N != track)
    if not len(others):
      others = np.delete(np.arange(n), i)
    chosen.append(rng.choice(others))
  return np.array(chosen)


@jax.jit
def _baselines(
  noisy: jax.Array, delta: jax.Array, mean_D: jax.Array, variance_D: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Velocities [B, L, D] of the best constant and the best linear predictor.

  Both know the angle and the channel; see `metrics.diffusion` for the formulas.
  """
  # The mean of v depends on the angle: E[v] = -sin(delta) E[z].
  mean = mean_D[None, None, :]
  constant = -jnp.sin(delta)[..., None] * mean  # E[v | delta]
  gain = linear_predictor_gain(variance_D, delta)
  linear = constant + gain * (noisy - jnp.cos(delta)[..., None] * mean)
  return jnp.broadcast_to(constant, noisy.shape), linear


@functools.partial(jax.jit, static_argnames="chunks")
def _scores(
  v: jax.Array, target: jax.Array, z: jax.Array, noisy: jax.Array, delta: jax.Array, chunks: int
) -> tuple[jax.Array, jax.Array]:
  """Squared error and SI-SNR gain of a velocity [B, L, D], each [B, L]."""
  gain_BxM = si_snr_gain(z, noisy, v, delta, chunks)
  # Each frame has the gain of its chunk: both measures are then averaged in the same way.
  of_chunk = diffusion.chunk_of_frames(z.shape[1], chunks)
  return jnp.mean(jnp.square(v - target), axis=-1), gain_BxM[:, of_chunk]


def _errors_of_batch(
  velocity: Velocity,
  z: jax.Array,
  tokens: jax.Array,
  wrong: jax.Array,
  rng: jax.Array,
  chunks: int,
  moments: tuple[jax.Array, jax.Array],
) -> dict[str, np.ndarray]:
  """Angles, errors and gains of one draw, each [B, L], as `velocity_errors` names them."""
  angle_rng, noise_rng = jax.random.split(rng)
  delta = diffusion.chunk_angles(angle_rng, z.shape[0], z.shape[1], chunks)
  # One draw for all predictors: their differences are then not noise.
  noise = jax.random.normal(noise_rng, z.shape)
  noisy, target = diffusion.add_noise(z, noise, delta), diffusion.velocity(z, noise, delta)
  predicted = dict(zip(("constant", "linear"), _baselines(noisy, delta, *moments), strict=True))
  # One program for all three: what the network may read is an array of flags, not a shape.
  for name, given, conditional in (
    ("right", tokens, True),
    ("shuffled", wrong, True),
    ("none", tokens, False),
  ):
    predicted[name] = velocity(noisy, delta, given, jnp.full(len(z), conditional))
  out = {"delta": delta}
  for name, v in predicted.items():
    out[name], gain = _scores(v, target, z, noisy, delta, chunks)
    if name in GAINS:
      out[f"gain_{name}"] = gain
  # To the host: all batches together need not fit the device.
  return {name: np.asarray(value) for name, value in out.items()}


def velocity_errors(
  velocity: Velocity,
  latents: np.ndarray,
  tokens: np.ndarray,
  tracks: np.ndarray,
  chunks: int,
  draws: int,
  batch_size: int,
  seed: int,
) -> dict[str, np.ndarray]:
  """Squared velocity errors of every frame, averaged over channels, and its chunk's SI-SNR gain.

  All predictors get the same noise and the same angles, drawn from U[0, pi/2] per chunk. The
  baselines know the mean and variance of exactly these latents, which favours them.

  Args:
    velocity: The network.
    latents: Clean latents [N, L, D].
    tokens: Semantic tokens, integers [N, T].
    tracks: Track numbers [N]; windows of one track have the same number.
    chunks: Number M of chunks in a window, each with an angle of its own.
    draws: Number of draws of noise, angles and wrong tokens for each window.
    batch_size: Windows per call of the network.
    seed: Seed of all draws.

  Returns:
    {"delta", each of PREDICTORS and "gain_" with each of GAINS: array [draws * N, L]}, gains in dB.
    Three predictors are the network with different tokens: "right", "shuffled" (tokens of another
    track; NaN where there is one window only) and "none".
  """
  # float64: the variance over some millions of frames loses digits in float32.
  flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
  moments = (
    jnp.asarray(flat.mean(axis=0), jnp.float32),
    jnp.asarray(flat.var(axis=0), jnp.float32),
  )
  parts: list[dict[str, np.ndarray]] = []
  host_rng = np.random.default_rng(seed)
  for draw in range(draws):
    # New wrong tokens in every draw, so that no single unlucky pair decides. One window alone has
    # no other tokens: its own stand in here, and their error is struck out below.
    wrong = tokens[other_tracks(tracks, host_rng)] if len(tokens) > 1 else tokens
    draw_rng = jax.random.fold_in(jax.random.key(seed), draw)
    for k, (index, real) in enumerate(batches(len(latents), batch_size)):
      errors = _errors_of_batch(
        velocity,
        jnp.asarray(latents[index], jnp.float32),
        jnp.asarray(tokens[index]),
        jnp.asarray(wrong[index]),
        jax.random.fold_in(draw_rng, k),
        chunks,
        moments,
      )
      parts.append({name: e[:real] for name, e in errors.items()})
  errors = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
  if len(latents) < 2:
    for name in ("shuffled", "gain_shuffled"):
      errors[name] = np.full_like(errors[name], np.nan)
  return errors


def evaluate_denoiser(
  velocity: Velocity,
  windows: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
  chunks: int,
  draws: int,
  batch_size: int,
  seed: int,
  progress: Progress = print_progress,
  split: str = "validation",
) -> Finding:
  """Velocity errors per dataset, over all datasets, and by angle.

  Args:
    velocity: The network.
    windows: {dataset: (latents [N, L, D], semantic tokens [N, T], track numbers [N])}.
    chunks: Number M of chunks in a window.
    draws: Number of draws of noise and angles for each window.
    batch_size: Windows per call of the network.
    seed: Seed of all draws.
    progress: Function that gets one line per dataset.
    split: Name of the split that the windows are of, for the text.

  Returns:
    The finding "dpd".
  """
  errors = {}
  for name, (latents, tokens, tracks) in windows.items():
    progress(f"dpd: {name}, {len(latents)} windows x {draws} draws")
    errors[name] = velocity_errors(
      velocity, latents, tokens, tracks, chunks, draws, batch_size, seed
    )
  names = next(iter(errors.values()))
  everything = {k: np.concatenate([e[k] for e in errors.values()]) for k in names}
  sets = {**errors, "all": everything} if len(errors) > 1 else errors
  summaries = {name: _summary(e) for name, e in sets.items()}
  angles = _by_angle(everything)
  last = _summary(everything)
  headline = (
    "per_cent_under_constant", "per_cent_under_linear", "right_beats_shuffled", "si_snr_gain_right",
  )  # fmt: skip
  values = {"datasets": summaries, "by_angle": angles, **{k: last[k] for k in headline}}
  sizes = {name: len(e["right"]) for name, e in sets.items()}
  return Finding("dpd", values, _markdown(summaries, sizes, angles, last, split))


def _markdown(
  summaries: dict[str, dict[str, float]],
  sizes: dict[str, int],
  angles: list[dict[str, Any]],
  last: dict[str, float],
  split: str,
) -> str:
  columns = {
    "constant": "best constant per angle",
    "linear": "best linear per angle",
    "right": "network, right tokens",
    "shuffled": "network, another track's tokens",
    "none": "network, no tokens",
    "per_cent_under_constant": "% under constant",
    "per_cent_under_linear": "% under linear",
  }
  gains = {f"si_snr_gain_{p}": columns[p] for p in GAINS}
  rows = [(name, sizes[name], *(s[key] for key in columns)) for name, s in summaries.items()]
  text = (
    f"Mean squared velocity error: {number(last['per_cent_under_constant'])} % under the best "
    f"constant per angle, {number(last['per_cent_under_linear'])} % under the best linear "
    "predictor per angle; "
  )
  if np.isfinite(last["right_beats_shuffled"]):
    share = f"{100 * last['right_beats_shuffled']:.0f} % of windows."
    text += f"the right tokens beat another track's in {share}"
  else:
    text += "one window alone has no other track's tokens to compare with."
  by_angle = table(
    ("angle (share of pi/2)", *PREDICTORS),
    [(b["angle"], *(b[p] for p in PREDICTORS)) for b in angles],
  )
  decibels = table(
    ("SI-SNR gain, dB", *gains.values()),
    [(name, *(s[key] for key in gains)) for name, s in summaries.items()],
  )
  errors = table((split, "windows", *columns.values()), rows)
  return "\n\n".join((text, errors, decibels, by_angle))


def _summary(errors: dict[str, np.ndarray]) -> dict[str, float]:
  means = {p: float(errors[p].mean()) for p in PREDICTORS}
  means |= {f"si_snr_gain_{p}": float(errors[f"gain_{p}"].mean()) for p in GAINS}
  # Window by window, because right and shuffled see the same noise: the pairs cancel its spread.
  right, shuffled = errors["right"].mean(axis=1), errors["shuffled"].mean(axis=1)
  difference = shuffled - right
  return means | {
    "per_cent_under_constant": 100.0 * (1.0 - means["right"] / means["constant"]),
    "per_cent_under_linear": 100.0 * (1.0 - means["right"] / means["linear"]),
    # NaN where nothing could be compared, which is not the same as never.
    "right_beats_shuffled": float(np.mean(np.where(np.isnan(difference), np.nan, difference > 0))),
    "shuffled_minus_right": float(difference.mean()),
    "shuffled_minus_right_standard_error": float(difference.std() / np.sqrt(len(difference))),
  }


def _by_angle(errors: dict[str, np.ndarray]) -> list[dict[str, Any]]:
  share = errors["delta"] / diffusion.HALF_PI
  out = []
  for b in range(BUCKETS):
    low, high = b / BUCKETS, (b + 1) / BUCKETS
    inside = (share >= low) & (share < high)
    # A part without any angle has no mean; it happens with few windows.
    if inside.any():
      out.append(
        {
          "angle": f"{low:.2f} to {high:.2f}",
          **{p: float(errors[p][inside].mean()) for p in PREDICTORS},
        }
      )
  return out


def dpd(config: ml_collections.ConfigDict) -> Finding:
  """Compares the denoiser's velocity with those of simpler predictors, and with wrong tokens.

  Args:
    config: configs/evaluate.py: bundle, data, split, window_seconds, batch_size, seed and dpd.

  Returns:
    The finding "dpd", see `evaluate_denoiser`.

  Raises:
    UserError: if the bundle has no denoiser, or no dataset has the split.
  """
  velocity, chunks = load_denoiser(config.bundle)
  encoders = Encoders(config.bundle, config.batch_size)
  windows = {}
  for name, dataset in datasets_of(config, config.split).items():
    print_progress(f"dpd: reading {name}")
    clips = encoded_windows(
      dataset,
      encoders,
      config.window_seconds,
      ("latents", "semantic_tokens"),
      config.dpd.windows,
      config.seed,
    )
    tracks = np.unique([clip.track for clip in clips], return_inverse=True)[1]
    windows[name] = (stack_clips(clips, "latents"), stack_clips(clips, "semantic_tokens"), tracks)
  return evaluate_denoiser(
    velocity, windows, chunks, config.dpd.draws, config.batch_size, config.seed, print_progress,
    config.split,
  )  # fmt: skip
