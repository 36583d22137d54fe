"""The musicnn music tagger: an embedding and 50 tags that no model here was trained on.

Architecture: Pons & Serra 2019, "musicnn: pre-trained convolutional neural networks for
music audio tagging" (arXiv 1909.06654): timbral and temporal convolutions on a log-mel
patch, three dense-connected convolutions, max and mean pooling over time, one dense layer.
The weights (ISC licence) are read from the TensorFlow checkpoints inside the published wheel
of musicnn 0.1.0, once, into a small `.npz` in the user's cache; the package is never imported.
"""

import ast
import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
from typing import Any
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.errors import UserError
from melody_jax.evaluation.musicnn.tensor_bundle import read_float_tensors
from melody_jax.host.cache_folders import own_cache

MUSICNN_SAMPLE_RATE = 16_000
N_FFT, HOP, N_MELS = 512, 256, 96
PATCH_FRAMES = 187  # 3 s, what the networks were trained on
MODELS = ("MTT", "MSD")  # MagnaTagATune and Million Song Dataset
_VERSION = "0.1.0"
_BATCH_NORM_EPSILON = 1e-3
_PATCHES_PER_CALL = 16

Params = dict[str, jax.Array]


def _batch_norm(params: Params, index: int, x: jax.Array) -> jax.Array:
  """Inference batch normalisation number `index` (creation order) over the last axis."""
  name = f"batch_normalization_{index}" if index else "batch_normalization"
  inverse = params[f"{name}/gamma"] / jnp.sqrt(
    params[f"{name}/moving_variance"] + _BATCH_NORM_EPSILON
  )
  shift = params[f"{name}/beta"] - params[f"{name}/moving_mean"] * inverse
  # Reshaped by hand: unequal ranks are forbidden in tests.
  ones = (1,) * (x.ndim - 1)
  return x * inverse.reshape(*ones, -1) + shift.reshape(*ones, -1)


def _conv_relu(params: Params, index: int, x_BxTxFxC: jax.Array, padding: Any) -> jax.Array:
  name = f"conv2d_{index}" if index else "conv2d"
  y = jax.lax.conv_general_dilated(
    x_BxTxFxC, params[f"{name}/kernel"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jax.nn.relu(y + params[f"{name}/bias"][None, None, None, :])


def apply(params: Params, patches_BxTxF: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Runs the tagger.

  Args:
    params: Arrays under the checkpoint's variable names.
    patches_BxTxF: Log-mel patches [B, frames, 96]: log10(1 + 10000 mel power).

  Returns:
    (logits [B, 50], embedding [B, 200]). The sigmoid of a logit is the tag's probability; the
    embedding is the normalised layer before the last one.
  """
  x = _batch_norm(params, 0, patches_BxTxF[..., None])
  same_time = ((3, 3), (0, 0))
  front = [_conv_relu(params, i, x, same_time) for i in (0, 1)]  # timbral
  front += [_conv_relu(params, i, x, "SAME") for i in (2, 3, 4)]  # temporal
  # Each convolution's strongest frequency, after its normalisation.
  front = [jnp.max(_batch_norm(params, i + 1, y), axis=2) for i, y in enumerate(front)]
  h_BxTxC = jnp.concatenate(front, axis=-1)

  features = [h_BxTxC]
  for i in (5, 6, 7):
    # The kernels span all channels of the axis before last: a convolution over time.
    y = _conv_relu(params, i, h_BxTxC[..., None], same_time)[:, :, 0, :]
    y = _batch_norm(params, i + 1, y)
    # The first has no residual: it changes the number of channels.
    h_BxTxC = y if i == 5 else h_BxTxC + y
    features.append(h_BxTxC)
  dense_BxTxC = jnp.concatenate(features, axis=-1)

  # Interleaved channel by channel, as the checkpoint's next weights expect.
  pooled = jnp.stack([dense_BxTxC.max(axis=1), dense_BxTxC.mean(axis=1)], axis=-1)
  pooled = _batch_norm(params, 9, pooled.reshape(pooled.shape[0], -1))
  hidden = jax.nn.relu(pooled @ params["dense/kernel"] + params["dense/bias"][None, :])
  embedding = _batch_norm(params, 10, hidden)
  return embedding @ params["dense_1/kernel"] + params["dense_1/bias"][None, :], embedding


# Parameters are an argument: both taggers share one compiled program.
_apply = jax.jit(apply)


@functools.cache
def _mel_filters() -> np.ndarray:
  import librosa

  return librosa.filters.mel(sr=MUSICNN_SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, norm="slaney")


def compressed_mel(audio_S: np.ndarray) -> np.ndarray:
  """Log-mel frames, the tagger's input: log10(1 + 10000 mel power).

  Args:
    audio_S: Mono audio [samples] at 16 kHz, in [-1, 1], at least 257 samples.

  Returns:
    Frames, float32 [1 + samples // 256, 96].
  """
  # Centred frames with reflected ends, as librosa's, which the weights were trained on.
  padded = np.pad(np.asarray(audio_S, np.float32), N_FFT // 2, mode="reflect")
  n_frames = 1 + (len(padded) - N_FFT) // HOP
  frames = padded[np.arange(n_frames)[:, None] * HOP + np.arange(N_FFT)[None, :]]
  window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
  power = np.square(np.abs(np.fft.rfft(frames * window[None, :], axis=-1)))
  return np.log10(1.0 + 10_000.0 * (power @ _mel_filters().T)).astype(np.float32)


def _patches(mel_TxF: np.ndarray, hop: int = PATCH_FRAMES) -> np.ndarray:
  """Patches every `hop` frames, one flush with the end; short clips are repeated to fill one."""
  if len(mel_TxF) < PATCH_FRAMES:
    # Repeated, not padded: the network never heard digital silence beside music.
    mel_TxF = np.resize(mel_TxF, (PATCH_FRAMES, N_MELS))
  last = len(mel_TxF) - PATCH_FRAMES
  starts = sorted({*range(0, last + 1, hop), last})
  return np.stack([mel_TxF[s : s + PATCH_FRAMES] for s in starts])


@dataclasses.dataclass(frozen=True)
class Tagger:
  """A trained musicnn with its tag names; see `load`.

  Attributes:
    model: "MTT" or "MSD".
    params: Arrays under the checkpoint's variable names.
    tags: Names of the 50 tags.
  """

  model: str
  params: Params
  tags: tuple[str, ...]

  def __call__(self, audio_BxS: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Tags clips, averaging over their 3 s patches.

    Args:
      audio_BxS: Mono clips [B, samples] in [-1, 1].
      sample_rate: Their sample rate in Hz. Clips at other rates are resampled to 16 kHz.

    Returns:
      (tag probabilities [B, 50], embeddings [B, 200]), both float32.
    """
    import librosa

    probabilities, embeddings = [], []
    for audio_S in np.asarray(audio_BxS, np.float32):
      if sample_rate != MUSICNN_SAMPLE_RATE:
        audio_S = librosa.resample(
          audio_S, orig_sr=sample_rate, target_sr=MUSICNN_SAMPLE_RATE, res_type="soxr_hq"
        )
      logits, embedding = self.windows(audio_S, PATCH_FRAMES)
      # The mean of probabilities, not of logits: one sure patch must not decide a clip.
      probabilities.append(np.mean(1.0 / (1.0 + np.exp(-logits)), axis=0))
      embeddings.append(embedding.mean(axis=0))
    return np.stack(probabilities), np.stack(embeddings)

  def windows(self, audio_S: np.ndarray, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs the network on the 3 s patches of one clip.

    Args:
      audio_S: Mono audio [samples] at 16 kHz, in [-1, 1], at least 257 samples.
      hop: Frames of 16 ms between the starts of two patches.

    Returns:
      (logits [patches, 50], embeddings [patches, 200]), both float32.
    """
    patches = _patches(compressed_mel(audio_S), hop)
    outputs = []
    for first in range(0, len(patches), _PATCHES_PER_CALL):
      batch = patches[first : first + _PATCHES_PER_CALL]
      # From four on filled up to a multiple of it: few compiled programs for clips of any length.
      rows = len(batch) if len(batch) < 4 else -(-len(batch) // 4) * 4
      index = np.minimum(np.arange(rows), len(batch) - 1)
      logits, embedding = (np.asarray(x)[: len(batch)] for x in _apply(self.params, batch[index]))
      outputs.append((logits, embedding))
    logits, embeddings = zip(*outputs, strict=True)
    return np.concatenate(logits), np.concatenate(embeddings)


def load(model: str, cache: str | os.PathLike | None = None) -> Tagger:
  """Returns the tagger "MTT" or "MSD", converting its weights on first use.

  The first use downloads the musicnn 0.1.0 wheel with pip (29 MB, without its dependencies).

  Args:
    model: Data set that the weights were trained on: "MTT" or "MSD".
    cache: Folder for the converted weights; None means `own_cache()`.

  Raises:
    UserError: if the model is unknown, or the wheel cannot be fetched or is damaged.
  """
  if model not in MODELS:
    raise UserError(f"musicnn model {model!r}: choose one of {', '.join(MODELS)}")
  where = pathlib.Path(cache) if cache is not None else own_cache()
  converted = where / f"musicnn-{_VERSION}-{model}.npz"
  if not converted.exists():
    try:
      where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"cannot keep the music tagger in {where} ({error.strerror}): set XDG_CACHE_HOME"
      ) from error
    arrays: dict[str, Any] = read_wheel(_fetch_wheel(where), model)
    # Renamed when whole: two processes may convert at once, and either may be killed.
    partial = converted.with_name(f".{converted.name}.tmp-{os.getpid()}.npz")
    np.savez_compressed(partial, **arrays)
    os.replace(partial, converted)
  with np.load(converted) as arrays:
    params = {k: jnp.asarray(v) for k, v in arrays.items() if k != "tags"}
    return Tagger(model, params, tuple(str(tag) for tag in arrays["tags"]))


def _fetch_wheel(where: pathlib.Path) -> pathlib.Path:
  wheel = where / f"musicnn-{_VERSION}-py3-none-any.whl"
  if not wheel.exists():
    # Downloaded, not installed: its requirements ask for an old TensorFlow.
    command = [
      sys.executable,
      "-m",
      "pip",
      "download",
      "--quiet",
      "--no-deps",
      "--dest",
      str(where),
      f"musicnn=={_VERSION}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode or not wheel.exists():
      last = (result.stderr.strip().splitlines() or ["no message"])[-1]
      raise UserError(
        f"cannot fetch the musicnn tagger with pip ({last}); put "
        f"{wheel.name} into {where} and run again"
      )
  return wheel


def read_wheel(wheel: str | os.PathLike, model: str) -> dict[str, np.ndarray]:
  """Reads a model's inference variables from the wheel's TensorFlow checkpoint.

  Args:
    wheel: Path of the musicnn 0.1.0 wheel.
    model: "MTT" or "MSD".

  Returns:
    {variable name: float32 array} and "tags", an array of 50 strings.

  Raises:
    UserError: if the file is damaged.
  """
  try:
    with zipfile.ZipFile(wheel) as archive:
      index, data = (
        archive.read(f"musicnn/{model}_musicnn/.{suffix}")
        for suffix in ("index", "data-00000-of-00001")
      )
      configuration = archive.read("musicnn/configuration.py").decode()
    variables = read_float_tensors(index, data)
    tags = np.array(_constant(configuration, f"{model}_LABELS"))
  except (zipfile.BadZipFile, KeyError, ValueError) as error:
    raise UserError(
      f"{wheel} is no intact musicnn {_VERSION} wheel ({error}): delete it and run again"
    ) from error
  # The optimiser's variables lie among the network's.
  arrays = {
    name: value
    for name, value in variables.items()
    if "Adam" not in name and not name.endswith("_power")
  }
  return arrays | {"tags": tags}


def _constant(source: str, name: str) -> list[str]:
  """The literal assigned to `name` in Python source that is not to be executed."""
  # Read, not imported: the wheel's code needs an old TensorFlow.
  for node in ast.parse(source).body:
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
      return ast.literal_eval(node.value)
  raise ValueError(f"no constant {name} in the wheel's configuration")
