"""Fits mean and spread of the VAE's latents, which scale them for the DPD.

docs/spec.md, section 7.5.

Writes latent_scale/center_D, latent_scale/sigma_D and, for a codec of principal axes,
latent_scale/gain_D, each float32 [D], into the file of the VAE. With the paper's form of the
latents (`clip_latents`) centre and sigma are 0 and 1 and only the share of values that clip is
measured.
"""

from typing import Any

import ml_collections
import numpy as np

from melody_jax import bundle
from melody_jax.encoders.codec import Codec
from melody_jax.fitting.batches import clip_batches, collect


def axis_gains(spread_D: np.ndarray, whitening: float, spread: float) -> np.ndarray:
  """Gains under which the DPD sees strong axes more than weak ones: float32 [D].

  Axes that are all alike make a denoiser work on the weak ones, which tokens say little about.

  Args:
    spread_D: Spread of the log magnitudes along each principal axis, float [D].
    whitening: 1: all axes alike; 0: as they are; 0.5: by the roots of their spreads.
    spread: Root mean square over the axes of the scaled latents' spreads.

  Returns:
    Gains after the division by three spreads.
  """
  shares = spread_D ** (1.0 - whitening)
  return np.asarray(3.0 * spread * shares / np.sqrt(np.mean(shares**2)), np.float32)


def fit_latents(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Measures the scale of the latents and stores it in the bundle.

  Args:
    config: Config of the fit (configs/fit.py:latents).

  Returns:
    The report, which is stored as well: number of frames, and share of values that clip.

  Raises:
    UserError: The bundle has no VAE, or config.data names no data.
  """
  codec = Codec.load(config.bundle, fitted=False)
  means = collect(
    lambda audio: codec.encode_mean(codec.params, audio),
    clip_batches(config, config.data.split, config.windows, True),
    "latents",
  )
  means = means.reshape(-1, means.shape[-1])
  # float64: over some millions of frames a float32 sum loses digits.
  center = np.asarray(means.mean(axis=0, dtype=np.float64), np.float32)
  sigma = np.asarray(means.std(axis=0, dtype=np.float64), np.float32)
  if codec.config.clip_latents:
    # The decoder was trained on clip(z / 3): the prior's own scale, whatever the corpus has.
    center, sigma = np.zeros_like(center), np.ones_like(sigma)
  # The models scale by three sigma: few values clip, and the rest use most of [-1, 1].
  clipped = float((np.abs(means - center[None, :]) > 3.0 * sigma[None, :]).mean())
  scale = {"center_D": center, "sigma_D": sigma}
  if codec.config.spectral:
    axes_DS = np.asarray(codec.params["decoder"]["axes"], np.float64)
    heard = np.linalg.norm(axes_DS, axis=1) * sigma
    scale["gain_D"] = axis_gains(heard, config.whitening, config.spread)
  path = bundle.path_of(config.bundle, "vae")
  report = {"frames": len(means), "clipped_share": clipped}
  bundle.update(path, {"latent_scale": scale}, {"latents_report": report})
  print(
    f"{path}: sigma of {len(sigma)} channels from {sigma.min():.3f} to {sigma.max():.3f}"
    f" over {len(means)} frames, {clipped:.2%} of values clip"
  )
  return report
