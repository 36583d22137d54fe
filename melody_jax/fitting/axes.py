"""Fits the principal axes of a corpus' spectra, which a codec without phase starts from.

    python -m melody_jax.fit --config=configs/fit.py:axes --config.bundle=DIR --config.data.path=...

Writes a new vae.safetensors. Its networks add nothing yet, but it is already the best linear codec
of its size. A training of configs/vae.py starts from it by
`--config.train.init_from=DIR/vae.safetensors` (docs/spec.md, section 7).

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
  """First principal axes of a distribution, scaled so that each latent has unit spread.

  Args:
    covariance_SxS: Covariance of the stacked bins, float [S, S].
    count: Number of axes D.

  Returns:
    (axes of the encoder [S, D], axes of the decoder [D, S], share of the variance they explain).
  """
  size = len(covariance_SxS)
  values, vectors = eigh(covariance_SxS, subset_by_index=[size - count, size - 1])
  # eigh has the largest last. The floor keeps an axis without variance from dividing by zero.
  values, vectors = np.maximum(values[::-1], 1e-8), vectors[:, ::-1]
  spread = np.sqrt(values)
  explained = float(values.sum() / np.trace(covariance_SxS))
  # Divided on the way in, multiplied on the way out: latents of unit spread, as the posterior
  # expects.
  return vectors / spread[None, :], (vectors * spread[None, :]).T, explained


def _moments(
  config: ml_collections.ConfigDict, model: VAEConfig
) -> tuple[np.ndarray, np.ndarray, int]:
  """Mean [S] and covariance [S, S] of the weighted, stacked log magnitudes, and the frames read."""
  weights = jnp.asarray(spectral_codec.bin_weights(model.n_fft, model.sample_rate, model.tilt))

  @jax.jit
  def sums(audio_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = spectral_codec.log_magnitudes(audio_BxT, model) * weights[None, None, :]
    x = x.reshape(-1, model.stacked_bins)
    return jnp.sum(x, axis=0), jnp.dot(x.T, x)

  # Sums over batches in float64: all frames of a corpus would not fit into memory.
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
  """Fits the axes and writes the file of a codec that consists of them.

  Args:
    config: Config of the fit (configs/fit.py:axes).

  Returns:
    The report, which is stored as well: number of frames, and share of the variance explained.

  Raises:
    UserError: The model has another form than the spectral one, there are too few frames, or
      config.data names no data.
  """
  model = config_from(VAEConfig, config.model)
  if not model.spectral:
    raise UserError(f"config.model.decoder is {model.decoder!r}: principal axes need 'spectral'")
  mean, covariance, frames = _moments(config, model)
  # With fewer frames than axes some axes would have no variance at all.
  if frames < model.latent_dim:
    raise UserError(f"{frames} frames have no {model.latent_dim} axes: raise config.windows")
  encoder_axes, decoder_axes, explained = principal_axes(covariance, model.latent_dim)
  audio = jnp.zeros((1, model.hop_length))
  noise = jnp.zeros((1, 1, model.latent_dim))
  params = nn.meta.unbox(VAE(model).init(jax.random.key(config.seed), audio, noise))["params"]
  # The blocks keep their random values, but what they add is zero at birth.
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
