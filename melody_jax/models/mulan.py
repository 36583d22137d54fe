"""MuLan: music and text in one joint space (Huang et al., 2022; docs/spec.md, section 3).

The music tower is a spectrogram transformer (AST, Gong et al., 2021): log-mel, patches of 16 x 16,
a pre-norm ViT encoder. The text tower is a BERT encoder with a head. Both give unit vectors of
`joint_size` features. In training a learned temperature scales their cosines.

With `text_frozen` the body of the text encoder is a public checkpoint that is not trained. Then it
is not among the trained parameters, and `with_text_body` adds it before text is embedded.

Shape letters: B batch, T samples, F mel frames, M mel bands, P patches, N token
positions, D width, C joint-space features.
"""

import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax import text
from melody_jax.losses.contrastive import unit_vectors
from melody_jax.models.bert import Bert, BertConfig, params_from_safetensors
from melody_jax.models.layers import Dense, LayerNorm, param_with_axes
from melody_jax.models.transformer import EncoderConfig, TransformerEncoder
from melody_jax.spectral import log_mel

# The text encoder in the parameter tree; bundles leave it out when it is frozen.
TEXT_BODY = "text_body"


@dataclasses.dataclass(frozen=True)
class MuLanConfig:
  """Sizes of both towers.

  Attributes:
    joint_size: Joint-space features C.
    init_temperature: Temperature of the contrastive loss at birth; it is learned.
    sample_rate: Sample rate in Hz.
    window_samples: Length in samples of a clip that the music tower sees at once.
    n_mels, n_fft, win_length, hop_length: The log-mel front end, in bands and samples.
    mel_mean, mel_std: Mean and standard deviation that the log-mel is standardised by.
    patch: Side of a patch, in frames and in bands.
    patch_keep: Share of patches a training step sees (1: all).
    time_masks, time_mask_frames, mel_masks, mel_mask_bands: SpecAugment: the number of masks and
      the length of the longest, over time and over mel bands.
    music_width, music_layers, music_heads, music_mlp: Sizes of the music tower's encoder.
    music_pooling: Pooling of the music tower: "cls" or "mean".
    text_length: Token positions N.
    text_vocab, text_width, text_layers, text_heads, text_mlp, text_positions: BERT's sizes.
    text_pooling: Pooling of the text tower: "pooler" (BERT's tanh layer over the first token),
      "cls" or "mean".
    text_hidden: Inner size of the text head; 0 makes the head linear.
    text_init: Start of the text encoder: "" (random), "minilm", or a directory with a BERT-shaped
      model.safetensors.
    text_frozen: Whether the text encoder is not trained; needs `text_init`.
    dropout: Dropout rate in both towers and in the text head.
    remat: Whether to recompute encoder blocks in the backward pass.
    dtype: Dtype of computation.
  """

  joint_size: int
  init_temperature: float
  sample_rate: int
  window_samples: int
  n_mels: int
  n_fft: int
  win_length: int
  hop_length: int
  mel_mean: float
  mel_std: float
  patch: int
  patch_keep: float
  time_masks: int
  time_mask_frames: int
  mel_masks: int
  mel_mask_bands: int
  music_width: int
  music_layers: int
  music_heads: int
  music_mlp: int
  music_pooling: str
  text_length: int
  text_vocab: int
  text_width: int
  text_layers: int
  text_heads: int
  text_mlp: int
  text_positions: int
  text_pooling: str
  text_hidden: int
  text_init: str
  text_frozen: bool
  dropout: float = 0.0
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if self.music_pooling not in ("cls", "mean"):
      raise ValueError(f"music_pooling {self.music_pooling!r}: it must be 'cls' or 'mean'")
    if self.text_pooling not in ("pooler", "cls", "mean"):
      raise ValueError(f"text_pooling {self.text_pooling!r}: it must be 'pooler', 'cls' or 'mean'")
    for tower in ("music", "text"):
      width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
      if width % heads:
        raise ValueError(f"{tower}_width {width} must be a multiple of {tower}_heads = {heads}")
    if self.text_frozen and not self.text_init:
      raise ValueError("text_frozen keeps random weights: name a checkpoint in text_init")

  @property
  def bert(self) -> BertConfig:
    """The text encoder's own config."""
    return BertConfig(
      self.text_vocab, self.text_width, self.text_layers, self.text_heads, self.text_mlp,
      self.text_positions, pooler=self.text_pooling == "pooler",
      dropout=0.0 if self.text_frozen else self.dropout, remat=self.remat, dtype=self.dtype,
    )  # fmt: skip

  @property
  def patches(self) -> tuple[int, int]:
    """Patches along (mel, time); what does not fill a patch is cut off."""
    frames = self.window_samples // self.hop_length + 1
    return self.n_mels // self.patch, frames // self.patch


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


def patchify(x_BxFxM: jax.Array, patch: int) -> jax.Array:
  """Cuts a spectrogram into square patches. Frames and bands that fill no patch are dropped.

  Args:
    x_BxFxM: Log-mel, float [B, F, M].
    patch: Side of a patch, in frames and in bands.

  Returns:
    float [B, P, patch * patch]. Patches lie in mel-major order, and so do the values inside one.
  """
  # Mel-major is the order of AST.
  batch, frames, mels = x_BxFxM.shape
  rows, columns = mels // patch, frames // patch
  x = x_BxFxM[:, : columns * patch, : rows * patch]
  x = x.reshape(batch, columns, patch, rows, patch)
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

  config: MuLanConfig

  @nn.compact
  def __call__(self, mel_BxFxM: jax.Array, deterministic: bool = True) -> jax.Array:
    c = self.config
    dtype = jnp.dtype(c.dtype)
    if not deterministic:
      time_rng, mel_rng, keep_rng = jax.random.split(self.make_rng("augment"), 3)
      mel_BxFxM = mask_spans(time_rng, mel_BxFxM, 1, c.time_masks, c.time_mask_frames)
      mel_BxFxM = mask_spans(mel_rng, mel_BxFxM, 2, c.mel_masks, c.mel_mask_bands)
    patches = patchify(mel_BxFxM, c.patch)
    x_BxPxD = Dense(c.music_width, ("kernel", "embed"), dtype=dtype, name="patches")(patches)
    n_cls = int(c.music_pooling == "cls")
    shape = (n_cls + patches.shape[1], c.music_width)
    positions = param_with_axes(
      self, "positions", nn.initializers.normal(0.02), shape, ("position", "embed")
    ).astype(dtype)
    # Positions first: a patch that is kept must still know where it was.
    x_BxPxD = x_BxPxD + positions[None, n_cls:, :]
    if not deterministic:
      x_BxPxD = keep_patches(keep_rng, x_BxPxD, c.patch_keep)
    if n_cls:
      cls = param_with_axes(
        self, "cls", nn.initializers.normal(0.02), (1, c.music_width), ("position", "embed")
      )
      cls = jnp.broadcast_to(
        (cls.astype(dtype) + positions[:1])[None], (len(x_BxPxD), 1, c.music_width)
      )
      x_BxPxD = jnp.concatenate([cls, x_BxPxD], axis=1)
    x_BxPxD = nn.Dropout(c.dropout, deterministic=deterministic)(x_BxPxD)
    stack = EncoderConfig(
      c.music_width, c.music_layers, c.music_heads, c.music_mlp, pre_norm=True,
      dropout=c.dropout, remat=c.remat, dtype=c.dtype,
    )  # fmt: skip
    x_BxPxD = TransformerEncoder(stack, name="encoder")(x_BxPxD, None, deterministic)
    x_BxPxD = LayerNorm(1e-12, dtype, name="norm")(x_BxPxD)
    return x_BxPxD[:, 0] if n_cls else jnp.mean(x_BxPxD, axis=1)


class Temperature(nn.Module):
  """The learned temperature. The call gives the scalar 1 / temperature, at most 100.

  Attributes:
    initial: Temperature at birth.
  """

  initial: float

  @nn.compact
  def __call__(self) -> jax.Array:
    start = nn.initializers.constant(-math.log(self.initial))
    # A logarithm, so that it stays positive; the bound is CLIP's (Radford et al., 2021).
    log_scale = param_with_axes(self, "log_scale", start, (1,), ("scalar",))
    return jnp.exp(jnp.minimum(log_scale[0], math.log(100.0)))


class MuLan(nn.Module):
  """Both towers. `audio` embeds music; `text_features`, then `text_head`, embed text.

  `scale` gives the factor of the cosines in the loss.
  """

  config: MuLanConfig

  def setup(self):
    c = self.config
    self.music_tower = MusicTower(c)
    self.music_head = Dense(c.joint_size, ("embed", "embed_out"), dtype=c.dtype)
    self.text_body = Bert(c.bert)
    if c.text_hidden:
      self.text_inner = Dense(c.text_hidden, ("embed", "mlp"), dtype=c.dtype)
    inner_axis = "mlp" if c.text_hidden else "embed"
    self.text_outer = Dense(c.joint_size, (inner_axis, "embed_out"), dtype=c.dtype)
    self.drop = nn.Dropout(c.dropout)
    self.temperature = Temperature(c.init_temperature)

  def mel(self, audio_BxT: jax.Array) -> jax.Array:
    """Audio [B, T] -> standardised log-mel [B, F, M], which the music tower reads."""
    c = self.config
    mel = log_mel(audio_BxT, c.sample_rate, c.n_fft, c.win_length, c.hop_length, c.n_mels)
    return (mel - c.mel_mean) / c.mel_std

  def audio(self, audio_BxT: jax.Array, deterministic: bool = True) -> jax.Array:
    """Audio [B, window_samples] in [-1, 1] -> unit vectors, float32 [B, C]."""
    features = self.music_tower(self.mel(audio_BxT), deterministic)
    return unit_vectors(self.music_head(features))

  def text_features(
    self, ids_BxN: jax.Array, mask_BxN: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Token ids and mask [B, N] -> pooled output of the text encoder [B, text_width]."""
    hidden, pooled = self.text_body(ids_BxN, mask_BxN, deterministic)
    if self.config.text_pooling == "pooler":
      return pooled
    if self.config.text_pooling == "cls":
      return hidden[:, 0]
    weights = mask_BxN.astype(hidden.dtype)[:, :, None]
    return jnp.sum(hidden * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)

  def text_head(self, features_BxD: jax.Array, deterministic: bool = True) -> jax.Array:
    """Pooled text features [B, text_width] -> unit vectors, float32 [B, C]."""
    # Scaled to a mean square of 1: MiniLM was trained on cosines, so its own scale means nothing.
    x = unit_vectors(features_BxD) * self.config.text_width**0.5
    x = self.drop(x, deterministic=deterministic)
    if self.config.text_hidden:
      x = self.drop(nn.gelu(self.text_inner(x)), deterministic=deterministic)
    return unit_vectors(self.text_outer(x))

  def scale(self) -> jax.Array:
    """Scalar 1 / temperature."""
    return self.temperature()

  def towers(self, audio_BxT: jax.Array, ids_BxN: jax.Array, mask_BxN: jax.Array) -> Any:
    """Runs every part once, which creates every parameter."""
    self.text_features(ids_BxN, mask_BxN)
    return self.trained(audio_BxT)

  def trained(self, audio_BxT: jax.Array) -> Any:
    """Runs all but the body of the text encoder: creates the parameters if that is frozen."""
    features = jnp.zeros((len(audio_BxT), self.config.text_width))
    return self.audio(audio_BxT), self.text_head(features), self.scale()


def init_params(
  rng: jax.Array, config: MuLanConfig, with_body: bool | None = None
) -> dict[str, Any]:
  """Parameters, boxed with logical axis names.

  Args:
    rng: Random key.
    config: Sizes.
    with_body: Whether to include the text encoder's body; None: unless it is frozen.
  """
  model = MuLan(config)
  audio = jnp.zeros((1, config.window_samples))
  if with_body if with_body is not None else not config.text_frozen:
    ids = jnp.zeros((1, config.text_length), jnp.int32)
    return dict(model.init(rng, audio, ids, ids == 0, method=MuLan.towers)["params"])
  return dict(model.init(rng, audio, method=MuLan.trained)["params"])


@functools.lru_cache(maxsize=2)
def text_body_params(config: MuLanConfig) -> dict[str, Any]:
  """The public checkpoint that `text_init` names, as the text encoder's parameters (numpy).

  Raises:
    UserError: The checkpoint is not installed, missing, or of other sizes.
  """
  return params_from_safetensors(
    text.encoder_dir(config.text_init) / "model.safetensors", config.bert
  )


def with_text_body(params: dict[str, Any], config: MuLanConfig) -> dict[str, Any]:
  """`params` with the frozen text encoder's body added where a bundle left it out.

  Raises:
    UserError: The public checkpoint is not installed.
  """
  return params if TEXT_BODY in params else {**params, TEXT_BODY: text_body_params(config)}


def fill_window(audio_T: Any, window: int) -> Any:
  """A clip [..., T] shorter than a window, repeated until it fills one: [..., window].

  Repeated, because the towers never heard half a window of silence in training; a longer clip is
  cut. JAX arrays stay JAX arrays, numpy's stay numpy's.
  """
  return audio_T[..., np.arange(window) % audio_T.shape[-1]]


def windows_of(audio_BxT: jax.Array, window: int) -> jax.Array:
  """Clips of any length -> the windows the music tower sees: [B, W, window].

  A shorter clip is repeated to fill one window; a longer one is covered by windows that
  overlap by half, the last one ending with the clip.
  """
  samples = audio_BxT.shape[1]
  if samples < window:
    return fill_window(audio_BxT, window)[:, None]
  # Half a window apart: what is cut at the end of one lies in the middle of the next.
  starts = list(range(0, samples - window + 1, window // 2))
  if starts[-1] != samples - window:
    starts.append(samples - window)
  return jnp.stack([audio_BxT[:, s : s + window] for s in starts], axis=1)


def embed_music(params: dict[str, Any], config: MuLanConfig, audio_BxT: jax.Array) -> jax.Array:
  """Unit embeddings of clips.

  Args:
    params: Parameters of the model (other entries, such as codebooks, are ignored).
    config: Sizes.
    audio_BxT: Audio, mono at `config.sample_rate`, any length (the mean over its windows).

  Returns:
    float32 [B, C].
  """
  windows_BxWxT = windows_of(audio_BxT, config.window_samples)
  batch, n_windows, samples = windows_BxWxT.shape
  embeddings = MuLan(config).apply(
    {"params": params}, windows_BxWxT.reshape(batch * n_windows, samples), method=MuLan.audio
  )
  return unit_vectors(jnp.mean(embeddings.reshape(batch, n_windows, -1), axis=1))


def embed_text(
  params: dict[str, Any], config: MuLanConfig, text_ids: jax.Array, text_mask: jax.Array
) -> jax.Array:
  """Unit embeddings of texts.

  Args:
    params: Parameters of the model, the text body among them (`with_text_body`).
    config: Sizes.
    text_ids: Token ids, int32 [B, N].
    text_mask: Mask, bool [B, N], true on real tokens.

  Returns:
    float32 [B, C].
  """
  if TEXT_BODY not in params:
    raise ValueError("these parameters have no text encoder body: pass them through with_text_body")
  model, variables = MuLan(config), {"params": params}
  features = model.apply(variables, text_ids, text_mask.astype(bool), method=MuLan.text_features)
  return model.apply(variables, features, method=MuLan.text_head)


def embed_prompt(
  params: dict[str, Any], config: MuLanConfig, text_ids: jax.Array, text_mask: jax.Array
) -> jax.Array:
  """Unit embeddings of the music that texts ask for; arguments as in `embed_text`.

  Text lies in a part of the joint space of its own (Liang et al. 2022, arXiv 2203.02053), and a
  language model trained on style tokens of music knows only where music lies. A linear prior,

      music = normalise(text kernel + offset)

  takes one to the other (the prior of Ramesh et al. 2022, arXiv 2204.06125, in its simplest form;
  choice). `fitting.prior` adds it to a bundle; parameters without "prior" give `embed_text`.

  Returns:
    float32 [B, C].
  """
  text_BxC = embed_text(params, config, text_ids, text_mask)
  if "prior" not in params:
    return text_BxC
  prior = params["prior"]
  return unit_vectors(jnp.dot(text_BxC, prior["kernel"]) + prior["offset"][None, :])
