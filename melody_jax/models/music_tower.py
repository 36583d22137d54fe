"""The music tower: a spectrogram transformer (AST, Gong et al., 2021) and its public checkpoints.

Log-mel, patches of 16 x 16, a pre-norm ViT encoder (docs/spec.md, section 3.1).

Shape letters: B batch, T samples, F mel frames, M mel bands, P patches, K tokens before the
patches, D width.
"""

import dataclasses
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.errors import UserError
from melody_jax.models.layers import Dense, LayerNorm, param_with_axes
from melody_jax.models.public_checkpoint import (
  Reader,
  check_settings,
  check_shapes,
  open_checkpoint,
)
from melody_jax.models.transformer import EncoderConfig, TransformerEncoder
from melody_jax.spectral import kaldi_fbank, log_mel, resample

FRONTS = ("log_mel", "kaldi")
# Learned tokens that stand before the patches, by the pooling that reads them.
_TOKENS = {"mean": (), "cls": ("cls",), "cls_distillation": ("cls", "distillation")}


@dataclasses.dataclass(frozen=True)
class MusicTowerConfig:
  """Sizes of the music tower; its fields are those of `mulan.MuLanConfig`, without "music_".

  Attributes:
    sample_rate: Sample rate in Hz of the audio that comes in.
    rate: Sample rate in Hz at which the tower hears it.
    window_samples: Length in samples of what comes in.
    front: Form of the log-mel: "log_mel" or "kaldi".
    n_mels, n_fft, win_length, hop_length, mel_mean, mel_std: The front end, at `rate`.
    patch, stride: Side of a patch and distance of two, in frames and in bands.
    patch_keep, time_masks, time_mask_frames, mel_masks, mel_mask_bands: What training hides.
    width, layers, heads, mlp: Sizes of the encoder.
    pooling: Pooling: "mean", "cls" or "cls_distillation".
    dropout, remat, dtype: Switches of the encoder.
  """

  sample_rate: int
  rate: int
  window_samples: int
  front: str
  n_mels: int
  n_fft: int
  win_length: int
  hop_length: int
  mel_mean: float
  mel_std: float
  patch: int
  stride: int
  patch_keep: float
  time_masks: int
  time_mask_frames: int
  mel_masks: int
  mel_mask_bands: int
  width: int
  layers: int
  heads: int
  mlp: int
  pooling: str
  dropout: float = 0.0
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if self.pooling not in _TOKENS:
      raise ValueError(f"music_pooling {self.pooling!r}: it must be one of {', '.join(_TOKENS)}")
    if self.front not in FRONTS:
      raise ValueError(f"music_front {self.front!r}: it must be one of {', '.join(FRONTS)}")
    if self.width % self.heads:
      raise ValueError(f"music_width {self.width} must be a multiple of music_heads = {self.heads}")
    if self.win_length > self.n_fft:
      raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
    if min(self.grid) < 1:
      raise ValueError(f"a window has {self.grid} patches along (mel, time): none")

  @property
  def tokens(self) -> tuple[str, ...]:
    """Names of the learned tokens that stand before the patches."""
    return _TOKENS[self.pooling]

  @property
  def grid(self) -> tuple[int, int]:
    """Patches along (mel, time); what does not fill a patch is cut off."""
    samples = -(-self.window_samples * self.rate // self.sample_rate)
    whole = self.front == "kaldi"
    frames = (samples - (self.win_length if whole else 0)) // self.hop_length + 1
    rows, columns = ((n - self.patch) // self.stride + 1 for n in (self.n_mels, frames))
    return rows, columns


def standardised_mel(audio_BxT: jax.Array, config: MusicTowerConfig) -> jax.Array:
  """Audio at `config.sample_rate`, [B, T] -> standardised log-mel, float32 [B, F, M]."""
  c = config
  audio_BxT = resample(audio_BxT, c.sample_rate, c.rate)
  front = kaldi_fbank if c.front == "kaldi" else log_mel
  mel = front(audio_BxT, c.rate, c.n_fft, c.win_length, c.hop_length, c.n_mels)
  return (mel - c.mel_mean) / c.mel_std


def mask_spans(
  rng: jax.Array, x_BxFxM: jax.Array, axis: int, n_masks: int, longest: int
) -> jax.Array:
  """Sets random spans of each row to zero (SpecAugment, Park et al., 2019).

  Args:
    rng: Random key.
    x_BxFxM: Standardised log-mel, float [B, F, M]. Its mean is 0, so a span becomes the mean.
    axis: Axis of the spans: 1 over frames, 2 over mel bands.
    n_masks: Number of spans in each row.
    longest: Longest span. Lengths are drawn from 0 to this one.

  Returns:
    float [B, F, M].
  """
  if not n_masks:
    return x_BxFxM
  batch, size = x_BxFxM.shape[0], x_BxFxM.shape[axis]
  length_rng, start_rng = jax.random.split(rng)
  lengths = jax.random.randint(length_rng, (batch, n_masks, 1), 0, longest + 1)
  starts = jax.random.randint(start_rng, (batch, n_masks, 1), 0, size)
  steps = jnp.arange(size)[None, None, :]
  masked_BxS = jnp.any((steps >= starts) & (steps < starts + lengths), axis=1)
  return jnp.where(jnp.expand_dims(masked_BxS, 3 - axis), 0.0, x_BxFxM)


def patchify(x_BxFxM: jax.Array, patch: int, stride: int) -> jax.Array:
  """Cuts a spectrogram into square patches. Frames and bands that fill no patch are dropped.

  Args:
    x_BxFxM: Log-mel, float [B, F, M].
    patch: Side of a patch, in frames and in bands.
    stride: Distance of two patches, in frames and in bands; below `patch` they overlap.

  Returns:
    float [B, P, patch * patch]. Patches lie in mel-major order, and so do the values inside one.
  """
  # Mel-major is the order of AST.
  batch, frames, mels = x_BxFxM.shape
  rows, columns = (mels - patch) // stride + 1, (frames - patch) // stride + 1
  if stride == patch:
    x = x_BxFxM[:, : columns * patch, : rows * patch]
    x = x.reshape(batch, columns, patch, rows, patch)
  else:
    inside = np.arange(patch)[None, :]
    x = x_BxFxM[:, np.arange(columns)[:, None] * stride + inside]
    x = x[..., np.arange(rows)[:, None] * stride + inside]
  return x.transpose(0, 3, 1, 4, 2).reshape(batch, rows * columns, patch * patch)


def keep_patches(rng: jax.Array, x_BxPxD: jax.Array, share: float) -> jax.Array:
  """A random subset of each row's patches (patchout, Koutini et al., 2022).

  Args:
    rng: Random key.
    x_BxPxD: Patches.
    share: Share of them to keep, at least one.

  Returns:
    [B, round(share P), D].
  """
  batch, patches, _ = x_BxPxD.shape
  kept = max(1, round(share * patches))
  if kept == patches:
    return x_BxPxD
  # Every row keeps as many, so that shapes stay fixed; the steps become cheaper as well.
  order_BxP = jnp.argsort(jax.random.uniform(rng, (batch, patches)), axis=1)
  return jnp.take_along_axis(x_BxPxD, order_BxP[:, :kept, None], axis=1)


class MusicTower(nn.Module):
  """Standardised log-mel [B, F, M] -> pooled features [B, D]."""

  config: MusicTowerConfig

  @nn.compact
  def __call__(self, mel_BxFxM: jax.Array, deterministic: bool = True) -> jax.Array:
    c = self.config
    dtype = jnp.dtype(c.dtype)
    if not deterministic:
      time_rng, mel_rng, keep_rng = jax.random.split(self.make_rng("augment"), 3)
      mel_BxFxM = mask_spans(time_rng, mel_BxFxM, 1, c.time_masks, c.time_mask_frames)
      mel_BxFxM = mask_spans(mel_rng, mel_BxFxM, 2, c.mel_masks, c.mel_mask_bands)
    patches = patchify(mel_BxFxM, c.patch, c.stride)
    x_BxPxD = Dense(c.width, ("kernel", "embed"), dtype=dtype, name="patches")(patches)
    shape = (len(c.tokens) + patches.shape[1], c.width)
    positions = param_with_axes(
      self, "positions", nn.initializers.normal(0.02), shape, ("position", "embed")
    ).astype(dtype)
    # Positions first: a patch that is kept must still know where it was.
    x_BxPxD = x_BxPxD + positions[None, len(c.tokens) :, :]
    if not deterministic:
      x_BxPxD = keep_patches(keep_rng, x_BxPxD, c.patch_keep)
    if c.tokens:
      shape, axes = (1, c.width), ("position", "embed")
      start = nn.initializers.normal(0.02)
      tokens = [param_with_axes(self, name, start, shape, axes) for name in c.tokens]
      tokens_KxD = jnp.concatenate(tokens).astype(dtype) + positions[: len(tokens)]
      tokens_BxKxD = jnp.broadcast_to(tokens_KxD[None], (len(x_BxPxD), *tokens_KxD.shape))
      x_BxPxD = jnp.concatenate([tokens_BxKxD, x_BxPxD], axis=1)
    x_BxPxD = nn.Dropout(c.dropout, deterministic=deterministic)(x_BxPxD)
    stack = EncoderConfig(
      c.width, c.layers, c.heads, c.mlp, pre_norm=True,
      dropout=c.dropout, remat=c.remat, dtype=c.dtype,
    )  # fmt: skip
    x_BxPxD = TransformerEncoder(stack, name="encoder")(x_BxPxD, None, deterministic)
    x_BxPxD = LayerNorm(1e-12, dtype, name="norm")(x_BxPxD)
    if c.pooling == "cls":
      return x_BxPxD[:, 0]
    return jnp.mean(x_BxPxD[:, : len(c.tokens)] if c.tokens else x_BxPxD, axis=1)


# Our dense layer (inside a block) -> its names inside a block of a checkpoint, the old and the new.
_BLOCK_DENSE = {
  ("attention", "query"): ("attention.attention.query", "attention.q_proj"),
  ("attention", "key"): ("attention.attention.key", "attention.k_proj"),
  ("attention", "value"): ("attention.attention.value", "attention.v_proj"),
  ("attention", "out"): ("attention.output.dense", "attention.o_proj"),
  ("mlp", "inner"): ("intermediate.dense", "mlp.fc1"),
  ("mlp", "outer"): ("output.dense", "mlp.fc2"),
}
_BLOCK_NORM = {"attention_norm": "layernorm_before", "mlp_norm": "layernorm_after"}
_TOKEN_NAMES = {"cls": "cls_token", "distillation": "distillation_token"}


def params_from_safetensors(path: str | os.PathLike, config: MusicTowerConfig) -> dict[str, Any]:
  """Parameters of `MusicTower(config)` from a public AST checkpoint.

  Args:
    path: File `model.safetensors` with the tensor names of AST (with or without an
      "audio_spectrogram_transformer." prefix).
    config: Sizes; of a checkpoint with more layers the first ones are taken. Positions of a longer
      or shorter clip are fitted as in `fit_positions`.

  Returns:
    Nested dict of float32 numpy arrays, the tree that `MusicTower.init` makes under "params".

  Raises:
    UserError: The file is missing or damaged, lacks a tensor, or has other sizes.
  """
  settings = {
    "num_attention_heads": ("music_heads", config.heads),
    "num_mel_bins": ("n_mels", config.n_mels),
    "patch_size": ("patch", config.patch),
    "frequency_stride": ("patch_stride", config.stride),
    "time_stride": ("patch_stride", config.stride),
  }
  check_settings(path, settings)
  with open_checkpoint(path, "AST", "audio_spectrogram_transformer.") as reader:
    params = _read_params(reader, config, str(path))
  # The sizes to compare with, from tracing alone: no parameter is drawn.
  audio = jax.ShapeDtypeStruct((1, config.window_samples), jnp.float32)
  mel = jax.eval_shape(lambda x: standardised_mel(x, config), audio)
  expected = nn.unbox(jax.eval_shape(MusicTower(config).init, jax.random.key(0), mel))["params"]
  check_shapes(path, params, expected)
  return params


def _read_params(reader: Reader, config: MusicTowerConfig, where: str) -> dict[str, Any]:
  at = "layers" if reader.has("layers.0.layernorm_before.weight") else "encoder.layer"
  blocks = []
  for i in range(config.layers):
    block: dict[str, Any] = {"attention": {}, "mlp": {}}
    for (part, layer), names in _BLOCK_DENSE.items():
      block[part][layer] = reader.dense(*(f"{at}.{i}.{name}" for name in names))
    for norm, name in _BLOCK_NORM.items():
      block[norm] = reader.norm(f"{at}.{i}.{name}")
    blocks.append(block)
  projection = "embeddings.patch_embeddings.projection"
  kernel = reader.get(f"{projection}.weight")
  # All of the tokens, whichever of them the pooling reads: positions count them.
  positions = reader.get("embeddings.position_embeddings")
  kept = [list(_TOKEN_NAMES).index(name) for name in config.tokens]
  params: dict[str, Any] = {
    name: reader.get(f"embeddings.{_TOKEN_NAMES[name]}").reshape(1, -1) for name in config.tokens
  }
  return params | {
    # [out, 1, mel, time] -> [mel time, out].
    "patches": {
      "kernel": kernel.reshape(len(kernel), -1).T,
      "bias": reader.get(f"{projection}.bias"),
    },
    "positions": fit_positions(positions, config.grid, kept, where),
    "encoder": {"layers": reader.stack(blocks)},
    "norm": reader.norm("layernorm"),
  }


def fit_positions(
  positions: np.ndarray, grid: tuple[int, int], kept: list[int], where: str
) -> np.ndarray:
  """Learned positions of a checkpoint, fitted to clips of another length.

  A shorter clip takes the first columns: the 10 s that the public checkpoint was trained on stood
  at the start of its 10.24 s. For a longer one columns are interpolated linearly over time, as by
  Gong et al.

  Args:
    positions: Positions of two tokens, then of the patches in mel-major order, [1, 2 + P', D].
    grid: Patches along (mel, time) that are wanted.
    kept: Which of the two tokens' positions are wanted.
    where: Path of the file, for the message.

  Returns:
    float32 [len(kept) + P, D].

  Raises:
    UserError: The patches fill no grid with that many rows.
  """
  rows, columns = grid
  n_tokens = len(_TOKEN_NAMES)
  flat = positions.reshape(-1, positions.shape[-1])
  theirs, rest = divmod(len(flat) - n_tokens, rows)
  if theirs < 1 or rest:
    raise UserError(
      f"{where} has positions of {len(flat) - n_tokens} patches, which is no grid of {rows} rows:"
      " set config.model.n_mels, patch and patch_stride as the checkpoint has them"
    )
  table = flat[n_tokens:].reshape(rows, theirs, -1)
  if theirs < columns:
    table = np.asarray(jax.image.resize(table, (rows, columns, table.shape[-1]), "linear"))
  return np.concatenate([flat[kept], table[:, :columns].reshape(rows * columns, -1)])
