"""Semantic tokeniser: wav2vec 2.0 with conformer blocks, k-means on a middle layer.

docs/spec.md, section 4; wav2vec 2.0 is Baevski et al. (2020), its tokens for music MeLoDy section 4
(arXiv 2305.15719). Strided convolutions turn 24 kHz audio into frames at 25 Hz; a conformer
reads them with spans hidden; the hidden frames' quantised features are the targets. After
training, the nearest k-means centre of a middle layer's output is a frame's token.

A clip's tokens depend on its own samples only: padding is zeroed before every convolution
and hidden from attention, and no norm looks across frames or rows.

Shape letters: B batch, S samples, T frames, C channels, D width, G groups, V codes a group.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.models import layers
from melody_jax.models.conformer import Conformer, ConformerConfig
from melody_jax.models.front_kernels import constant_q_kernel, gabor_kernel
from melody_jax.models.musical_features import N_MELS, musical_features
from melody_jax.models.quantizer import kmeans_assign

FRONTS = ("conv", "gabor", "constant_q")
TOKEN_SOURCES = ("block", "teacher")


@dataclasses.dataclass(frozen=True)
class Wav2VecConfig:
  """Sizes of the tokeniser.

  Attributes:
    sample_rate: Sample rate in Hz.
    conv_channels, conv_kernels, conv_strides: Sizes of the feature encoder, layer by layer; the
      product of the strides is the hop of a frame.
    front: Form of the first layer. "conv" is convolution, norm, GELU as in wav2vec 2.0; "gabor"
      reads its channels as learned quadrature filters, starting as windowed sinusoids on a mel
      scale, and hands on log magnitudes. It spares a small model the discovery of spectra.
      "constant_q" is the same with centres a quarter tone apart and windows long enough to tell
      them apart, as far as the kernel allows: with it a small model hears harmony.
    front_pool: Frames of the first layer that "gabor" and "constant_q" average power over
      (Hann-weighted).
    teacher_size: Values of a frame that the musical teacher asks for
      (`models.musical_features`); 0: no teacher.
    tokens_from: Source of the features for tokens: "block", the output of `tokens_layer` blocks;
      "teacher", the output of the teacher's head after all blocks.
    heard_share: Share that a frame's own musical features have in the features for tokens; the rest
      is what the teacher's head makes of the frame in its context. Above 0 only with "teacher".
    mel_weight: Weight of the log-mel bands in those features, where chroma has 1; with "teacher".
    width, n_layers, n_heads, mlp_width, kernel_size, positions, conv_norm, dropout, remat:
      Sizes and switches of the conformer, see ConformerConfig.
    n_groups, n_codes: Codebooks G of the Gumbel quantiser, and codes V of each.
    code_size: Size of a quantised vector, all groups together.
    projection_size: Size of the vectors that the contrastive loss compares.
    tokens_layer: Number of blocks that run before features are read for tokens (1 .. n_layers).
    n_tokens: Number of k-means centres.
    dtype: Dtype of computation; the quantiser and the losses stay in float32.
  """

  conv_channels: tuple[int, ...]
  conv_kernels: tuple[int, ...]
  conv_strides: tuple[int, ...]
  width: int
  n_layers: int
  n_heads: int
  mlp_width: int
  tokens_layer: int
  sample_rate: int = 24_000
  front: str = "conv"
  front_pool: int = 1
  teacher_size: int = 0
  tokens_from: str = "block"
  heard_share: float = 0.0
  mel_weight: float = 1.0
  kernel_size: int = 31
  positions: str = "rotary"
  conv_norm: str = "layer"
  dropout: float = 0.0
  remat: bool = False
  n_groups: int = 2
  n_codes: int = 320
  code_size: int = 256
  projection_size: int = 256
  n_tokens: int = 1024
  dtype: str = "float32"

  def __post_init__(self):
    if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides):
      raise ValueError("conv_channels, conv_kernels and conv_strides differ in length")
    if any(k < s for k, s in zip(self.conv_kernels, self.conv_strides)):
      raise ValueError(f"conv_kernels {self.conv_kernels} skip samples at {self.conv_strides}")
    if self.front not in FRONTS:
      raise ValueError(f"front is {self.front!r}, it must be one of {FRONTS}")
    if self.tokens_from not in TOKEN_SOURCES:
      raise ValueError(f"tokens_from is {self.tokens_from!r}, it must be one of {TOKEN_SOURCES}")
    if self.tokens_from == "teacher" and not self.teacher_size:
      raise ValueError("tokens_from is 'teacher', which needs a teacher_size above 0")
    if self.tokens_from == "block" and (self.heard_share, self.mel_weight) != (0.0, 1.0):
      raise ValueError("heard_share and mel_weight need tokens_from 'teacher'")
    if not 0.0 <= self.heard_share <= 1.0:
      raise ValueError(f"heard_share {self.heard_share} is not in 0..1")
    if not 1 <= self.tokens_layer <= self.n_layers:
      raise ValueError(f"tokens_layer {self.tokens_layer} is not in 1..{self.n_layers}")
    if self.code_size % self.n_groups:
      raise ValueError(f"code_size {self.code_size} is not a multiple of {self.n_groups} groups")
    _ = self.conformer  # its sizes are checked here, not when the network is built

  @property
  def hop(self) -> int:
    """Samples per frame."""
    return math.prod(self.conv_strides)

  @property
  def conformer(self) -> ConformerConfig:
    # The two configs share names, so that a config page states each size once.
    names = [f.name for f in dataclasses.fields(ConformerConfig)]
    return ConformerConfig(**{name: getattr(self, name) for name in names})


class StridedConv(nn.Module):
  """Convolution with T / stride outputs: [B, T, in] -> [B, T / stride, features].

  T is a multiple of `stride`; kernel - stride zeros are added, half at each end. Computed as
  a few matmuls over blocks of `stride` frames, which runs at matmul speed in both passes
  even with one input channel.
  """

  features: int
  kernel_size: int
  stride: int
  use_bias: bool = True
  gain: float = 1.0
  dtype: layers.Dtype = jnp.float32
  kernel_init: layers.Initializer = layers.default_kernel_init

  @nn.compact
  def __call__(self, x_BxTxC: jax.Array) -> jax.Array:
    b, t, c = x_BxTxC.shape
    k, s = self.kernel_size, self.stride
    kernel = layers.param_with_axes(
      self, "kernel", self.kernel_init, (k, c, self.features), ("kernel", "conv_in", "conv_out")
    )
    taps = -(-k // s)  # blocks of `stride` frames that a kernel covers
    # Zeros after the kernel make it whole blocks; they are multiplied and change nothing.
    kernel = jnp.pad(kernel * self.gain, ((0, taps * s - k), (0, 0), (0, 0)))
    blocks_KxCxF = kernel.reshape(taps, s * c, self.features).astype(self.dtype)
    left = (k - s) // 2
    right = (taps - 1) * s - left
    x = jnp.pad(x_BxTxC.astype(self.dtype), ((0, 0), (left, right), (0, 0)))
    x = x.reshape(b, t // s + taps - 1, s * c)
    y: Any = sum(jnp.dot(x[:, i : i + t // s], blocks_KxCxF[i]) for i in range(taps))
    if self.use_bias:
      zeros = nn.initializers.zeros_init()
      bias = layers.param_with_axes(self, "bias", zeros, (self.features,), ("norm",))
      y = y + bias.astype(self.dtype)[None, None, :]
    return y


class FeatureEncoder(nn.Module):
  """Waveform to frames: [B, T hop], lengths [B] in frames -> [B, T, C]."""

  config: Wav2VecConfig

  @nn.compact
  def __call__(self, audio_BxS: jax.Array, lengths_B: jax.Array) -> jax.Array:
    c = self.config
    x = audio_BxS[:, :, None]
    # Samples of one frame that the layers still ahead will merge; lengths of valid input follow
    # from it, so padding is zeroed where it begins at every rate.
    remaining = c.hop
    x = _zero_padding(x, lengths_B * remaining)
    for i, (channels, k, s) in enumerate(zip(c.conv_channels, c.conv_kernels, c.conv_strides)):
      if i == 0 and c.front != "conv":
        x = self._filters(x, channels, k, s, lengths_B * (remaining // s))
      else:
        x = StridedConv(channels, k, s, dtype=c.dtype, name=f"conv_{i}")(x)
        x = layers.LayerNorm(dtype=c.dtype, name=f"norm_{i}")(x)
        x = nn.gelu(x, approximate=False)
      remaining //= s
      x = _zero_padding(x, lengths_B * remaining)
    return x

  def _filters(
    self, x_BxSx1: jax.Array, n_filters: int, kernel_size: int, stride: int, lengths_B: jax.Array
  ) -> jax.Array:
    """Log of the filters' power, averaged over `front_pool` neighbouring frames."""
    make = gabor_kernel if self.config.front == "gabor" else constant_q_kernel
    kernel = make(n_filters, kernel_size, self.config.sample_rate)
    # The gain makes a full-scale sine's magnitude 1 while entries stay of order 1 for Adam.
    conv = StridedConv(
      2 * n_filters,
      kernel_size,
      stride,
      use_bias=False,
      gain=4.0 / kernel_size,
      dtype=self.config.dtype,
      kernel_init=lambda *_: jnp.asarray(kernel),
      name="conv_0",
    )
    real, imaginary = jnp.split(conv(x_BxSx1).astype(jnp.float32), 2, axis=-1)
    power = _zero_padding(jnp.square(real) + jnp.square(imaginary), lengths_B)
    # The power of a single frame is as random as its phase: without an average, neighbouring
    # frames of a held sound would differ too much to be guessed from each other.
    n = self.config.front_pool
    weights = np.hanning(n + 2)[1:-1] / np.hanning(n + 2).sum()
    padded = jnp.pad(power, ((0, 0), ((n - 1) // 2, n // 2), (0, 0)))
    power = jnp.zeros_like(power) + sum(
      padded[:, i : i + power.shape[1]] * float(w) for i, w in enumerate(weights)
    )
    # Music at -20 LUFS lies around exp(-6) with a spread of a few nats.
    return ((0.5 * jnp.log(power + 1e-7) + 6.0) / 2.0).astype(self.config.dtype)


def _zero_padding(x_BxTxC: jax.Array, lengths_B: jax.Array) -> jax.Array:
  valid = jnp.arange(x_BxTxC.shape[1])[None, :] < lengths_B[:, None]
  return jnp.where(valid[:, :, None], x_BxTxC, jnp.zeros_like(x_BxTxC))


class GumbelQuantizer(nn.Module):
  """Product quantiser: G codebooks of V codes, one code of each concatenated.

  Training draws codes by the Gumbel trick and passes gradients straight through
  (Jang et al., 2017); otherwise the most probable code is taken.
  """

  config: Wav2VecConfig

  @nn.compact
  def __call__(
    self, x_BxTxC: jax.Array, temperature: jax.Array, rng: jax.Array | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Quantised features, their codes, and the probabilities of all codes.

    Args:
      x_BxTxC: Features.
      temperature: Temperature of the Gumbel softmax, a scalar.
      rng: Random key of the Gumbel noise; None takes the most probable code.

    Returns:
      (vectors [B, T, code_size], codes int32 [B, T, G], probabilities [B, T, G, V]).
    """
    c = self.config
    b, t, _ = x_BxTxC.shape
    # Spectra of music share most of their shape: without standardising, one code fits all frames
    # at first. Targets alone see these statistics, tokens never do.
    x_BxTxC = x_BxTxC.astype(jnp.float32)
    mean_C, std_C = jnp.mean(x_BxTxC, axis=(0, 1)), jnp.std(x_BxTxC, axis=(0, 1))
    x_BxTxC = (x_BxTxC - mean_C[None, None, :]) / (std_C + 1e-3)[None, None, :]
    # Large logits, as in wav2vec 2.0: at order one the noise would choose the codes, and the
    # diversity loss would then make them independent of the input for good.
    scale = 6.0 / math.sqrt(x_BxTxC.shape[-1])
    logits = layers.Dense(
      c.n_groups * c.n_codes,
      ("embed", "vocab"),
      name="logits",
      kernel_init=nn.initializers.normal(scale),
    )
    logits_BxTxGxV = logits(x_BxTxC).reshape(b, t, c.n_groups, c.n_codes)
    # Centred, so that targets differ in direction from the first step: the loss compares cosines.
    codebook_GxVxE = layers.param_with_axes(
      self,
      "codebook",
      nn.initializers.normal(1.0),
      (c.n_groups, c.n_codes, c.code_size // c.n_groups),
      ("codebook", "vocab", "embed_out"),
    )
    probabilities = jax.nn.softmax(logits_BxTxGxV, axis=-1)
    if rng is None:
      codes = jnp.argmax(logits_BxTxGxV, axis=-1)
      choice = jax.nn.one_hot(codes, c.n_codes, dtype=jnp.float32)
    else:
      # The largest of logits plus Gumbel noise is a draw from their softmax.
      noise = jax.random.gumbel(rng, logits_BxTxGxV.shape, jnp.float32)
      soft = jax.nn.softmax((logits_BxTxGxV + noise) / temperature, axis=-1)
      codes = jnp.argmax(soft, axis=-1)
      hard = jax.nn.one_hot(codes, c.n_codes, dtype=jnp.float32)
      # Forward the hard choice, backward the gradient of the soft one.
      choice = soft + jax.lax.stop_gradient(hard - soft)
    vectors = jnp.einsum("btgv,gve->btge", choice, codebook_GxVxE).reshape(b, t, c.code_size)
    return vectors, codes.astype(jnp.int32), probabilities


class Wav2Vec(nn.Module):
  """The whole network of training; `features` alone is what tokens need.

  Attributes:
    config: Sizes.
    deterministic: Whether there is no dropout.
  """

  config: Wav2VecConfig
  deterministic: bool = True

  def setup(self):
    c = self.config
    self.feature_encoder = FeatureEncoder(c)
    self.feature_norm = layers.LayerNorm(dtype=c.dtype)
    self.feature_projection = layers.Dense(c.width, ("conv_in", "embed_out"), dtype=c.dtype)
    self.encoder = Conformer(c.conformer, self.deterministic)
    self.encoder_norm = layers.LayerNorm(dtype=c.dtype)
    self.mask_embedding = layers.param_with_axes(
      self, "mask_embedding", nn.initializers.uniform(1.0), (c.width,), ("norm",)
    )
    self.quantizer = GumbelQuantizer(c)
    if c.teacher_size:
      # Small at birth: targets are, and a first error of a hundred times their size would rule
      # the optimiser's memory for hundreds of steps.
      small = nn.initializers.normal(0.01)
      self.teacher = layers.Dense(c.teacher_size, ("embed", "embed_out"), kernel_init=small)
    # In float32: the loss divides cosines by a temperature of 0.1, which makes rounding ten times
    # as large.
    self.context_projection = layers.Dense(c.projection_size, ("embed", "embed_out"))
    self.target_projection = layers.Dense(c.projection_size, ("embed", "embed_out"))

  def features(self, audio_BxS: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Features that tokens are made of, with nothing hidden: [B, T, D].

    The output of the last block before the final norm, or the musical features [B, T,
    teacher_size], heard and guessed.
    """
    frames = self.feature_norm(self.feature_encoder(audio_BxS, lengths_B))
    mask_BxT = frame_mask(lengths_B, frames.shape[1])
    x = self.encoder(self.feature_projection(frames), mask_BxT)
    c = self.config
    if c.tokens_from == "block":
      return x
    # The teacher's head was trained behind the norm, so it is read behind the norm.
    musical = self.teacher(self.encoder_norm(x)).astype(jnp.float32)
    if c.heard_share:
      heard = musical_features(audio_BxS, c.sample_rate, c.hop, lengths_B)
      musical = c.heard_share * heard + (1.0 - c.heard_share) * musical
    weight = np.where(np.arange(c.teacher_size) < N_MELS, c.mel_weight, 1.0).astype(np.float32)
    return musical * weight[None, None, :]

  def __call__(
    self,
    audio_BxS: jax.Array,
    lengths_B: jax.Array,
    hidden_BxT: jax.Array,
    temperature: jax.Array,
    rng: jax.Array | None,
  ) -> dict[str, jax.Array]:
    """Everything that the loss compares.

    Args:
      audio_BxS: Audio, [B, T hop].
      lengths_B: Valid frames of each row, int32.
      hidden_BxT: Mask, true on frames that the context network must guess.
      temperature: Temperature of the Gumbel softmax, a scalar.
      rng: Random key of the Gumbel noise, or None.

    Returns:
      "context" and "targets" [B, T, projection_size], "codes" int32 [B, T, G],
      "probabilities" [B, T, G, V]; with a teacher also "teacher" [B, T, teacher_size].
    """
    frames = self.feature_norm(self.feature_encoder(audio_BxS, lengths_B))
    vectors, codes, probabilities = self.quantizer(frames, temperature, rng)
    x = self.feature_projection(frames)
    # Hidden only now: the targets above are made of the same frames, as they sounded.
    x = jnp.where(hidden_BxT[:, :, None], self.mask_embedding.astype(x.dtype)[None, None, :], x)
    x = self.encoder_norm(self.encoder(x, frame_mask(lengths_B, x.shape[1])))
    taught = {"teacher": self.teacher(x)} if self.config.teacher_size else {}
    return taught | {
      "context": self.context_projection(x),
      "targets": self.target_projection(vectors),
      "codes": codes,
      "probabilities": probabilities,
    }


def frame_mask(lengths_B: jax.Array, n_frames: int) -> jax.Array:
  """True on valid frames: bool [B, n_frames]."""
  return jnp.arange(n_frames)[None, :] < lengths_B[:, None]


def semantic_features(
  params: Mapping[str, Any],
  config: Wav2VecConfig,
  audio_BxS: jax.Array,
  lengths: jax.Array | None = None,
) -> jax.Array:
  """Features that become tokens: the output of block `config.tokens_layer`, or the teacher's.

  Args:
    params: Parameters of Wav2Vec, without logical-axis boxes; further entries are ignored.
    config: Sizes.
    audio_BxS: Audio, float [B, S] in [-1, 1]; a rest shorter than one frame is dropped.
    lengths: Valid samples of each row, int [B]; None means all. Values beyond are ignored.

  Returns:
    float32 [B, S // hop, D]; frames from lengths // hop on are zero.

  Raises:
    ValueError: The audio is shorter than one frame.
  """
  n_frames = audio_BxS.shape[1] // config.hop
  if n_frames == 0:
    raise ValueError(f"{audio_BxS.shape[1]} samples are less than one frame of {config.hop}")
  if lengths is None:
    lengths_B = jnp.full((audio_BxS.shape[0],), n_frames, jnp.int32)
  else:
    lengths_B = jnp.minimum(jnp.asarray(lengths, jnp.int32) // config.hop, n_frames)
  # Later blocks are neither computed nor needed: the stacked parameters are cut instead.
  n = config.n_layers if config.tokens_from == "teacher" else config.tokens_layer
  cut = jax.tree.map(lambda p: p[:n], params["encoder"]["blocks"])
  params = {**params, "encoder": {**params["encoder"], "blocks": cut}}
  model = Wav2Vec(dataclasses.replace(config, n_layers=n))
  audio_BxS = audio_BxS[:, : n_frames * config.hop].astype(jnp.float32)
  features = model.apply({"params": params}, audio_BxS, lengths_B, method=Wav2Vec.features)
  return _zero_padding(features.astype(jnp.float32), lengths_B)


def semantic_tokens(
  params: Mapping[str, Any],
  config: Wav2VecConfig,
  audio_BxS: jax.Array,
  lengths: jax.Array | None = None,
) -> jax.Array:
  """Semantic tokens: the nearest k-means centre of each frame's whitened features.

  Args:
    params: Parameters of Wav2Vec, and "kmeans": {"centroids" [n_tokens, D], "mean" [D],
      "std" [D]}.
    config, audio_BxS, lengths: Arguments as in `semantic_features`.

  Returns:
    int32 [B, S // hop] in [0, n_tokens); -1 on padding frames.
  """
  kmeans = params["kmeans"]
  features = semantic_features(params, config, audio_BxS, lengths)
  tokens = kmeans_assign(kmeans["centroids"], whiten(features, kmeans["mean"], kmeans["std"]))
  if lengths is None:
    return tokens
  lengths_B = jnp.asarray(lengths, jnp.int32) // config.hop
  # No token, rather than the centre that is nearest to a frame of zeros.
  return jnp.where(frame_mask(lengths_B, tokens.shape[1]), tokens, -1)


def whiten(features: jax.Array, mean_D: jax.Array, std_D: jax.Array) -> jax.Array:
  """Whitened features (features - mean) / std: [..., D] -> [..., D].

  No dimension then rules the distances to the k-means centres.
  """
  # Broadcast by hand: the tests forbid arrays of unequal rank.
  shape = features.shape
  return (features - jnp.broadcast_to(mean_D, shape)) / jnp.broadcast_to(std_D, shape)
