"""MuLan: music and text in one joint space (Huang et al., 2022; docs/spec.md, section 3).

The music tower is a spectrogram transformer (`music_tower.py`), the text tower a BERT encoder
(`bert.py`), each with a head. Both give unit vectors of `joint_size` features. In training a
learned temperature scales their cosines. Either tower can begin with a public checkpoint.

With `text_frozen` the body of the text encoder is a public checkpoint that is not trained. Then it
is not among the trained parameters, and `with_text_body` adds it before text is embedded.

Shape letters: B batch, T samples, F mel frames, M mel bands, N token positions, D width, C
joint-space features.
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
from melody_jax.models import bert, music_tower
from melody_jax.models.bert import Bert, BertConfig
from melody_jax.models.layers import Dense, param_with_axes
from melody_jax.models.music_tower import MusicTower, MusicTowerConfig, standardised_mel
from melody_jax.models.public_checkpoint import checkpoint_file

# The text encoder in the parameter tree; bundles leave it out when it is frozen.
TEXT_BODY = "text_body"
MUSIC_BODY = "music_tower"


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
    patch_stride: Distance of two patches, in frames and in bands; 0: `patch`, side by side.
    patch_keep: Share of patches a training step sees (1: all).
    time_masks, time_mask_frames, mel_masks, mel_mask_bands: SpecAugment: the number of masks and
      the length of the longest, over time and over mel bands.
    music_width, music_layers, music_heads, music_mlp: Sizes of the music tower's encoder.
    music_pooling: Pooling of the music tower: "cls", "mean", or "cls_distillation", the mean of the
      two tokens that AST puts before its patches.
    music_rate: Sample rate in Hz at which the music tower hears a clip; 0: `sample_rate`.
    music_front: Form of the log-mel: "log_mel" (magnitudes of centred frames, Slaney's filters) or
      "kaldi" (`spectral.kaldi_fbank`, which AST was trained on).
    music_init: Start of the music tower: "" (random), or an AST-shaped model.safetensors, or the
      directory that holds it.
    text_length: Token positions N.
    text_vocab, text_width, text_layers, text_heads, text_mlp, text_positions: BERT's sizes.
    text_pooling: Pooling of the text tower: "pooler" (BERT's tanh layer over the first token),
      "cls" or "mean".
    text_hidden: Inner size of the text head; 0 makes the head linear.
    text_init: Start of the text encoder: "" (random), "minilm", or a BERT-shaped model.safetensors,
      or the directory that holds it; beside it its vocabulary, as tokenizer.json or vocab.txt.
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
  patch_stride: int = 0
  music_rate: int = 0
  music_front: str = "log_mel"
  music_init: str = ""
  dropout: float = 0.0
  remat: bool = False
  dtype: str = "float32"

  def __post_init__(self):
    if self.text_pooling not in ("pooler", "cls", "mean"):
      raise ValueError(f"text_pooling {self.text_pooling!r}: it must be 'pooler', 'cls' or 'mean'")
    if self.text_width % self.text_heads:
      raise ValueError(
        f"text_width {self.text_width} must be a multiple of text_heads = {self.text_heads}"
      )
    if self.text_frozen and not self.text_init:
      raise ValueError("text_frozen keeps random weights: name a checkpoint in text_init")
    _ = self.music  # its sizes are checked here, not when the network is built

  @property
  def bert(self) -> BertConfig:
    """The text encoder's own config."""
    return BertConfig(
      self.text_vocab, self.text_width, self.text_layers, self.text_heads, self.text_mlp,
      self.text_positions, pooler=self.text_pooling == "pooler",
      dropout=0.0 if self.text_frozen else self.dropout, remat=self.remat, dtype=self.dtype,
    )  # fmt: skip

  @property
  def music(self) -> MusicTowerConfig:
    """The music tower's own config."""
    derived: dict[str, Any] = {
      "rate": self.music_rate or self.sample_rate,
      "stride": self.patch_stride or self.patch,
    }
    names = {f.name for f in dataclasses.fields(MusicTowerConfig)} - set(derived)
    own = {f.name for f in dataclasses.fields(self)}
    return MusicTowerConfig(
      **derived, **{n: getattr(self, n if n in own else f"music_{n}") for n in names}
    )


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
    self.music_tower = MusicTower(c.music)
    # Float32 results: the loss is a difference of cosines, scaled by up to 100.
    self.music_head = Dense(
      c.joint_size, ("embed", "embed_out"), dtype=c.dtype, out_dtype=jnp.float32
    )
    self.text_body = Bert(c.bert)
    if c.text_hidden:
      self.text_inner = Dense(c.text_hidden, ("embed", "mlp"), dtype=c.dtype)
    inner_axis = "mlp" if c.text_hidden else "embed"
    self.text_outer = Dense(
      c.joint_size, (inner_axis, "embed_out"), dtype=c.dtype, out_dtype=jnp.float32
    )
    self.drop = nn.Dropout(c.dropout)
    self.temperature = Temperature(c.init_temperature)

  def mel(self, audio_BxT: jax.Array) -> jax.Array:
    """Audio [B, T] -> standardised log-mel [B, F, M], which the music tower reads."""
    return standardised_mel(audio_BxT, self.config.music)

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
  name = config.text_init
  where = text.minilm_dir() if name == text.MINILM else name
  return bert.params_from_safetensors(checkpoint_file(where), config.bert)


def public_params(config: MuLanConfig) -> dict[str, Any]:
  """What `music_init` and `text_init` name, as far as it is trained: a part of the parameters.

  Raises:
    UserError: A checkpoint is not installed, missing, or of other sizes.
  """
  params = {}
  if config.music_init:
    params[MUSIC_BODY] = music_tower.params_from_safetensors(
      checkpoint_file(config.music_init), config.music
    )
  if config.text_init and not config.text_frozen:
    params[TEXT_BODY] = text_body_params(config)
  return params


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
