"""VGGish, the embedding of the paper's FAD, by weights that the user has.

Hershey et al. 2017 (arXiv 1609.09430); the network and its input as published with AudioSet:
log-mel patches of 0.96 s, six convolutions, three dense layers, 128 numbers without the last
rectifier and without the quantised principal components. The weights are not shipped: the file
holds the names of the torch port (harritaylor/torchvggish), `features.0.weight` to
`embeddings.4.bias`, as .safetensors, .npz, or .pth where torch is installed.
"""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluation.embeddings.adapter import digest_of
from melody_jax.spectral import kaldi_mel_filters, stft_magnitude

SAMPLE_RATE = 16_000
_N_FFT, _WINDOW, _HOP, _N_MELS = 512, 400, 160, 64
_F_MIN, _F_MAX, _OFFSET = 125.0, 7500.0, 0.01
_FRAMES = 96  # of a patch: 0.96 s
_PATCHES_PER_CALL = 8
# Convolutions by their number in `features`, each followed by a rectifier; pooled after.
_CONVOLUTIONS = ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True))
_DENSE = (0, 2, 4)
NAMES = tuple(
  f"{layer}.{part}"
  for layer in (
    *(f"features.{i}" for i, _ in _CONVOLUTIONS),
    *(f"embeddings.{i}" for i in _DENSE),
  )
  for part in ("weight", "bias")
)


def log_mel_patches(audio_S: np.ndarray) -> np.ndarray:
  """The network's input: log(mel magnitude + 0.01) in patches that do not overlap.

  Args:
    audio_S: Audio [samples] at 16 kHz. A clip shorter than a patch is repeated to fill one; what
      is left after the last whole patch is not heard, as in the original.

  Returns:
    float32 [patches, 96, 64].
  """
  needed = _WINDOW + (_FRAMES - 1) * _HOP
  if len(audio_S) < needed:
    audio_S = np.resize(audio_S, needed)
  magnitude = stft_magnitude(jnp.asarray(audio_S)[None], _N_FFT, _HOP, _WINDOW, center=False)[0]
  filters = kaldi_mel_filters(SAMPLE_RATE, _N_FFT, _N_MELS, _F_MIN, _F_MAX)
  mel_TxM = np.log(np.asarray(magnitude) @ filters + _OFFSET)
  patches = len(mel_TxM) // _FRAMES
  return mel_TxM[: patches * _FRAMES].reshape(patches, _FRAMES, _N_MELS).astype(np.float32)


@jax.jit
def apply(params: dict[str, jax.Array], patches_BxTxM: jax.Array) -> jax.Array:
  """Log-mel patches [B, 96, 64] -> embeddings [B, 128].

  Args:
    params: Arrays under the names of the torch port.
    patches_BxTxM: Patches as `log_mel_patches` makes them.
  """
  x = patches_BxTxM[..., None]
  for number, is_pooled in _CONVOLUTIONS:
    kernel, bias = params[f"features.{number}.weight"], params[f"features.{number}.bias"]
    x = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "OIHW", "NHWC")
    )
    x = jax.nn.relu(x + bias[None, None, None, :])
    if is_pooled:
      x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
  x = x.reshape(x.shape[0], -1)
  for number in _DENSE:
    x = x @ params[f"embeddings.{number}.weight"].T + params[f"embeddings.{number}.bias"][None, :]
    x = x if number == _DENSE[-1] else jax.nn.relu(x)
  return x


class VggishEmbedding:
  """VGGish by a file of weights.

  Args:
    path: File of weights, see the head of this page.

  Raises:
    UserError: if the file is missing, of another kind, or lacks a layer.
  """

  name = "VGGish"
  sample_rate = SAMPLE_RATE

  def __init__(self, path: str | os.PathLike):
    arrays = _read(pathlib.Path(path))
    missing = [name for name in NAMES if name not in arrays]
    if missing:
      raise UserError(
        f"{path} is no VGGish: it lacks {missing[0]} (names of torchvggish are asked for)"
      )
    self._params = {name: jnp.asarray(arrays[name], jnp.float32) for name in NAMES}
    self.digest = digest_of(*(np.asarray(self._params[name]) for name in NAMES))

  def __call__(self, audio_S: np.ndarray) -> np.ndarray:
    """Audio [samples] at 16 kHz -> float32 [windows, 128]."""
    patches, results = log_mel_patches(audio_S), []
    for first in range(0, len(patches), _PATCHES_PER_CALL):
      batch = patches[first : first + _PATCHES_PER_CALL]
      # Filled up: one compiled program.
      index = np.minimum(np.arange(_PATCHES_PER_CALL), len(batch) - 1)
      results.append(np.asarray(apply(self._params, batch[index]))[: len(batch)])
    return np.concatenate(results)


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise UserError(f"no file of weights {path} (config.audio.embeddings, vggish=FILE)")
  try:
    if path.suffix == ".safetensors":
      from safetensors.numpy import load_file

      return load_file(path)
    if path.suffix == ".npz":
      with np.load(path) as arrays:
        return dict(arrays)
    if path.suffix in (".pth", ".pt"):
      try:
        import torch
      except ImportError as error:
        raise UserError(
          f"{path} is a file of torch, which is not installed: save it as .safetensors"
        ) from error
      found = torch.load(path, map_location="cpu", weights_only=True)
      return {name: tensor.numpy() for name, tensor in found.items()}
  except UserError:
    raise
  except Exception as error:  # each reader has errors of its own
    raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
  raise UserError(f"{path} must end in .safetensors, .npz, .pth or .pt (vggish=FILE)")
