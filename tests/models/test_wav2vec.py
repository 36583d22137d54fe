"""Properties of the semantic tokeniser: what it may and may not depend on."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.models import layers
from melody_jax.models.conformer import relative_sinusoids, shift_relative
from melody_jax.models.wav2vec import (
  GumbelQuantizer,
  StridedConv,
  Wav2Vec,
  Wav2VecConfig,
  semantic_features,
  semantic_tokens,
)
from melody_jax.sharding import LOGICAL_AXIS_RULES
from tests.configs import load_config

CONFIG = Wav2VecConfig(
  conv_channels=(8, 12, 12),
  conv_kernels=(20, 9, 8),
  conv_strides=(10, 6, 4),
  width=16,
  n_layers=3,
  n_heads=2,
  mlp_width=24,
  kernel_size=5,
  tokens_layer=2,
  n_codes=6,
  code_size=8,
  projection_size=8,
  n_tokens=10,
)
# Compiled once per config and shape: most of these tests' time is compilation.
features_of = jax.jit(semantic_features, static_argnums=1)
tokens_of = jax.jit(semantic_tokens, static_argnums=1)
VARIANTS = [
  ("rotary", "layer", "conv"),
  ("relative", "batch", "gabor"),
  ("rotary_input", "layer", "gabor"),
]


def make(config: Wav2VecConfig) -> dict:
  """Random parameters with centres, none of them trivial."""
  audio, lengths = jnp.zeros((1, 2 * config.hop)), jnp.full((1,), 2)
  init = jax.jit(
    lambda rng: Wav2Vec(config).init(
      rng, audio, lengths, jnp.zeros((1, 2), bool), jnp.ones(()), None
    )
  )
  params = nn.meta.unbox(init(jax.random.key(0))["params"])
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [p + 0.05 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves)]
  centroids = jax.random.normal(jax.random.key(2), (config.n_tokens, config.width))
  kmeans = {"centroids": centroids, "mean": jnp.zeros(config.width), "std": jnp.ones(config.width)}
  return jax.tree.unflatten(tree, noisy) | {"kmeans": kmeans}


def audio_of(rows: int, frames: int) -> np.ndarray:
  return 0.1 * np.random.default_rng(rows).normal(size=(rows, frames * CONFIG.hop)).astype(
    np.float32
  )


@pytest.mark.parametrize(("positions", "conv_norm", "front"), VARIANTS)
def test_features_do_not_depend_on_batch_or_padding(positions, conv_norm, front):
  config = dataclasses.replace(
    CONFIG, positions=positions, conv_norm=conv_norm, front=front, front_pool=4
  )
  params = make(config)
  batch = audio_of(2, 16)
  lengths = np.array([16, 9]) * config.hop
  features = np.asarray(features_of(params, config, batch, lengths))
  alone = np.asarray(features_of(params, config, batch[1:, : lengths[1]]))
  np.testing.assert_allclose(features[1, :9], alone[0], atol=2e-5)
  assert not features[1, 9:].any()
  noise = np.where(np.arange(batch.shape[1])[None, :] < lengths[:, None], batch, np.float32(9.0))
  np.testing.assert_array_equal(features_of(params, config, noise, lengths), features)
  other = np.stack([batch[0] * 3.0, batch[1]])
  np.testing.assert_allclose(features_of(params, config, other, lengths)[1], features[1], atol=2e-5)


def test_tokens_of_a_padded_row_equal_those_of_the_row_alone():
  params = make(CONFIG)
  batch = audio_of(2, 16)
  tokens = np.asarray(tokens_of(params, CONFIG, batch, np.array([16, 9]) * CONFIG.hop))
  alone = np.asarray(tokens_of(params, CONFIG, batch[1:, : 9 * CONFIG.hop]))
  np.testing.assert_array_equal(tokens[1], np.concatenate([alone[0], np.full(7, -1)]))
  assert alone.min() >= 0 and alone.max() < CONFIG.n_tokens


def test_features_are_those_of_the_chosen_block():
  params = make(CONFIG)
  audio, lengths = audio_of(1, 9), jnp.full((1,), 9)
  whole = jax.jit(
    lambda p, x: Wav2Vec(CONFIG).apply({"params": p}, x, lengths, method=Wav2Vec.features)
  )
  last = features_of(params, dataclasses.replace(CONFIG, tokens_layer=3), audio)
  middle = features_of(params, CONFIG, audio)
  np.testing.assert_allclose(last, whole(params, audio), atol=1e-5)
  assert np.abs(np.asarray(middle - last)).max() > 0.1


def test_a_rest_shorter_than_a_frame_is_dropped():
  params = make(CONFIG)
  audio = audio_of(1, 10)
  np.testing.assert_allclose(
    features_of(params, CONFIG, audio[:, :-1]),
    features_of(params, CONFIG, audio[:, : 9 * CONFIG.hop]),
    atol=1e-6,
  )
  with pytest.raises(ValueError, match="less than one frame"):
    semantic_features(params, CONFIG, audio[:, : CONFIG.hop - 1])


@pytest.mark.parametrize(
  ("kernel", "stride", "channels"), [(20, 10, 1), (9, 6, 3), (4, 4, 2), (11, 4, 2), (5, 1, 2)]
)
def test_strided_conv_equals_lax(kernel, stride, channels):
  x = jax.random.normal(jax.random.key(0), (2, 6 * stride, channels))
  conv = StridedConv(7, kernel, stride)
  params = nn.meta.unbox(conv.init(jax.random.key(1), x)["params"])
  left = (kernel - stride) // 2
  expected = jax.lax.conv_general_dilated(
    x,
    params["kernel"],
    (stride,),
    [(left, kernel - stride - left)],
    dimension_numbers=("NWC", "WIO", "NWC"),
  )
  np.testing.assert_allclose(conv.apply({"params": params}, x), expected, atol=1e-5)


def test_depthwise_conv_equals_lax_with_gradients():
  x = jax.random.normal(jax.random.key(0), (2, 11, 6))
  conv = layers.DepthwiseConv1d(5, use_bias=False)
  kernel = nn.meta.unbox(conv.init(jax.random.key(1), x))["params"]["kernel"]

  def ours(kernel, x):
    return conv.apply({"params": {"kernel": kernel}}, x)

  def reference(kernel, x):
    return jax.lax.conv_general_dilated(
      x,
      kernel[:, None, :],
      (1,),
      "SAME",
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=6,
    )

  np.testing.assert_allclose(ours(kernel, x), reference(kernel, x), atol=1e-5)
  grads = [
    jax.jit(jax.grad(lambda k, x, f=f: jnp.sum(jnp.sin(f(k, x))), (0, 1)))(kernel, x)
    for f in (ours, reference)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *grads)


def test_relative_scores_are_indexed_by_distance():
  t = 4
  scores = jnp.arange(t * (2 * t - 1), dtype=jnp.float32).reshape(1, 1, t, 2 * t - 1)
  shifted = np.asarray(shift_relative(scores))[0, 0]
  for i in range(t):
    for j in range(t):
      assert shifted[i, j] == scores[0, 0, i, t - 1 - i + j]
  np.testing.assert_allclose(
    np.asarray(relative_sinusoids(t, 6))[t - 1], [0, 1, 0, 1, 0, 1], atol=1e-6
  )


def test_gumbel_quantizer_picks_one_code_and_passes_gradients():
  quantizer = GumbelQuantizer(CONFIG)
  x = jax.random.normal(jax.random.key(0), (2, 5, 12))
  params = nn.meta.unbox(quantizer.init(jax.random.key(1), x, 1.0, None)["params"])
  vectors, codes, probabilities = quantizer.apply({"params": params}, x, 1.0, jax.random.key(2))
  groups = np.arange(CONFIG.n_groups)
  picked = np.asarray(params["codebook"])[groups[None, None, :], np.asarray(codes)].reshape(
    2, 5, -1
  )
  np.testing.assert_allclose(vectors, picked, atol=1e-6)
  np.testing.assert_allclose(np.sum(probabilities, axis=-1), 1.0, atol=1e-6)
  best = quantizer.apply({"params": params}, x, 1.0, None)
  np.testing.assert_array_equal(best[1], np.argmax(best[2], axis=-1))

  def loss(params, x):
    return jnp.sum(jnp.square(quantizer.apply({"params": params}, x, 1.0, jax.random.key(2))[0]))

  grads = jax.jit(jax.grad(loss, (0, 1)))(params, x)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_paper_frames_are_at_25_hz():
  config = layers.config_from(Wav2VecConfig, load_config("wav2vec", "paper").model)
  assert config.hop == 960 and config.n_groups == 2 and config.kernel_size == 31


@pytest.mark.parametrize(("positions", "conv_norm", "front"), VARIANTS)
def test_every_parameter_names_known_axes(positions, conv_norm, front):
  config = dataclasses.replace(CONFIG, positions=positions, conv_norm=conv_norm, front=front)
  boxed = jax.eval_shape(
    lambda: Wav2Vec(config).init(
      jax.random.key(0),
      jnp.zeros((1, config.hop)),
      jnp.ones((1,), jnp.int32),
      jnp.zeros((1, 1), bool),
      jnp.ones(()),
      None,
    )
  )
  leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  known = {name for name, _ in LOGICAL_AXIS_RULES}
  for leaf in leaves:
    assert isinstance(leaf, nn.LogicallyPartitioned)
    assert len(leaf.names) == leaf.value.ndim and set(leaf.names) <= known


@pytest.mark.parametrize(
  "change",
  [
    {"tokens_layer": 4},
    {"front": "mel"},
    {"conv_kernels": (20, 9)},
    {"conv_kernels": (20, 5, 8)},
    {"code_size": 7},
  ],
)
def test_sizes_that_do_not_fit_are_refused(change):
  with pytest.raises(ValueError):
    dataclasses.replace(CONFIG, **change)
