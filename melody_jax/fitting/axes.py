"""Principal axes of a corpus' spectra: what a codec without phase is born as.

    python -m melody_jax.fit --config=configs/fit.py:axes --config.bundle=DIR --config.data.path=...

Writes a new vae.safetensors, whose networks add nothing yet. It is the best linear codec of its
size already; `--config.train.init_from=DIR/vae.safetensors` of a training of configs/vae.py begins
with it (docs/spec.md, section 7).

Shape letters: B batch, L latent frames, S stacked bins of a frame, D latent channels.
"""

import json
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from scipy.linalg import eigh

from melody_jax import bundle
from melody_jax.errors import UserError
from melody_jax.fitting.batches import clip_batches
from melody_jax.models import spectral_codec
from melody_jax.models.layers import config_from
from melody_jax.models.vae import VAE, VAEConfig


def principal_axes(covariance_SxS: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, float]:
  """The first axes of a distribution, scaled so that latents have unit spread.

  Args:
    covariance_SxS: covariance of the stacked bins.
    count: D.

  Returns:
    (encoder's axes [S, D], decoder's axes [D, S], share of the variance that they explain).
  """
  size = len(covariance_SxS)
  values, vectors = eigh(covariance_SxS, subset_by_index=[size - count, size - 1])
  values, vectors = np.maximum(values[::-1], 1e-8), vectors[:, ::-1]
  spread = np.sqrt(values)
  explained = float(values.sum() / np.trace(covariance_SxS))
  return vectors / spread[None, :], (vectors * spread[None, :]).T, explained


def _moments(
  config: ml_collections.ConfigDict, model: VAEConfig
) -> tuple[np.ndarray, np.ndarray, int]:
  """Mean [S] and covariance [S, S] of the weighted, stacked log magnitudes, and the frames read."""
  weights = jnp.asarray(spectral_codec.bin_weights(model.n_fft, model.sample_rate))

  @jax.jit
  def sums(audio_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = spectral_codec.log_magnitudes(audio_BxT, model) * weights[None, None, :]
    x = x.reshape(-1, model.stacked_bins)
    return jnp.sum(x, axis=0), jnp.dot(x.T, x)

  total = np.zeros(model.stacked_bins)
  products = np.zeros((model.stacked_bins, model.stacked_bins))
  frames = 0
  for audio in clip_batches(config, config.data.split, config.windows, True):
    first, second = sums(jnp.asarray(audio))
    total, products = total + np.asarray(first), products + np.asarray(second)
    frames += audio.size // model.hop_length
  mean = total / frames
  return mean, products / frames - np.outer(mean, mean), frames


def fit_axes(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Writes the file of a codec born as principal axes; returns what they explain.

  Raises:
    UserError: for a model that has another form than the spectral one, or too few frames.
  """
  model = config_from(VAEConfig, config.model)
  if not model.spectral:
    raise UserError(f"config.model.decoder is {model.decoder!r}: principal axes need 'spectral'")
  mean, covariance, frames = _moments(config, model)
  if frames < model.latent_dim:
    raise UserError(f"{frames} frames have no {model.latent_dim} axes: raise config.windows")
  encoder_axes, decoder_axes, explained = principal_axes(covariance, model.latent_dim)
  audio = jnp.zeros((1, model.hop_length))
  noise = jnp.zeros((1, 1, model.latent_dim))
  params = nn.meta.unbox(VAE(model).init(jax.random.key(config.seed), audio, noise))["params"]
  params["encoder"] |= {"axes": encoder_axes, "offset": mean}
  params["decoder"] |= {"axes": decoder_axes, "offset": mean}
  report = {"frames": frames, "explained": explained}
  path = bundle.path_of(config.bundle, "vae")
  metadata = {
    "task": "vae",
    "step": 0,
    "dtype": "float32",
    "model_config": json.loads(config.model.to_json_best_effort()),
    "axes_report": report,
  }
  bundle.save(path, jax.tree.map(np.asarray, params), metadata, "float32")
  print(f"{path}: {model.latent_dim} axes explain {explained:.1%} of {frames} frames' variance")
  return report
