"""The re-implemented tagger against the graph that its authors published."""

import zipfile

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation.musicnn import tagger as musicnn
from melody_jax.host.cache_folders import own_cache

WHEEL = own_cache() / "musicnn-0.1.0-py3-none-any.whl"


def _random_params(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Arrays of the published shapes."""
  kernels = [
    (7, 38, 1, 204),
    (7, 67, 1, 204),
    (128, 1, 1, 51),
    (64, 1, 1, 51),
    (32, 1, 1, 51),
    (7, 561, 1, 64),
    (7, 64, 1, 64),
    (7, 64, 1, 64),
  ]
  params = {}
  for i, shape in enumerate(kernels):
    name = f"conv2d_{i}" if i else "conv2d"
    params[f"{name}/kernel"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[:3]))
    params[f"{name}/bias"] = np.zeros(shape[-1])
  params |= {
    "dense/kernel": rng.normal(size=(1506, 200)) / 40,
    "dense/bias": np.zeros(200),
    "dense_1/kernel": rng.normal(size=(200, 50)) / 14,
    "dense_1/bias": np.zeros(50),
  }
  for i, width in enumerate([1, *(shape[-1] for shape in kernels), 1506, 200]):
    name = f"batch_normalization_{i}" if i else "batch_normalization"
    for variable, value in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_variance", 1)):
      params[f"{name}/{variable}"] = np.full(width, value)
  return {k: v.astype(np.float32) for k, v in params.items()}


@pytest.fixture(scope="module")
def tagger() -> musicnn.Tagger:
  params = _random_params(np.random.default_rng(0))
  return musicnn.Tagger("MTT", params, tuple(f"tag {i}" for i in range(50)))


def test_shapes_and_ranges(tagger):
  audio = np.random.default_rng(1).normal(size=(2, 5 * 24_000)).astype(np.float32) * 0.1
  probabilities, embeddings = tagger(audio, 24_000)
  assert probabilities.shape == (2, 50) and embeddings.shape == (2, 200)
  assert ((probabilities > 0) & (probabilities < 1)).all()
  alone, _ = tagger(audio[1:], 24_000)
  np.testing.assert_allclose(alone[0], probabilities[1], atol=1e-5)


def test_short_clips_are_repeated_to_one_patch():
  assert musicnn._patches(np.ones((50, 96), np.float32)).shape == (1, 187, 96)
  starts = musicnn._patches(np.arange(400, dtype=np.float32)[:, None] * np.ones((1, 96)))[:, 0, 0]
  np.testing.assert_array_equal(starts, [0, 187, 400 - 187])


def test_front_end_equals_librosa():
  librosa = pytest.importorskip("librosa")
  audio = np.random.default_rng(2).normal(size=16_000).astype(np.float32) * 0.1
  expected = librosa.feature.melspectrogram(
    y=audio, sr=16_000, n_fft=512, hop_length=256, n_mels=96, pad_mode="reflect"
  ).T
  np.testing.assert_allclose(
    musicnn.compressed_mel(audio), np.log10(1 + 10_000 * expected), atol=1e-4
  )


def test_unknown_model():
  with pytest.raises(UserError, match="choose one of MTT, MSD"):
    musicnn.load("vgg")


def test_a_damaged_wheel_is_named(tmp_path):
  wheel = tmp_path / "musicnn-0.1.0-py3-none-any.whl"
  wheel.write_bytes(b"not a zip")
  with pytest.raises(UserError, match="no intact musicnn"):
    musicnn.read_wheel(wheel, "MTT")


@pytest.mark.skipif(not WHEEL.exists(), reason=f"needs {WHEEL.name} in the user's cache")
@pytest.mark.parametrize("model", musicnn.MODELS)
def test_equals_the_published_graph(model):
  tf = pytest.importorskip("tensorflow", reason="runs the published TensorFlow graph")
  arrays = musicnn.read_wheel(WHEEL, model)
  tags = arrays.pop("tags")
  assert len(tags) == len(set(tags)) == 50 and len(arrays) == 64
  meta = tf.compat.v1.MetaGraphDef()
  with zipfile.ZipFile(WHEEL) as archive:
    meta.ParseFromString(archive.read(f"musicnn/{model}_musicnn/.meta"))
  output = "model/dense_1/BiasAdd"
  for node in meta.graph_def.node:
    node.attr.pop("_output_shapes", None)  # written by an older version; inconsistent today
  patches = np.random.default_rng(3).uniform(0, 4, (2, 187, 96)).astype(np.float32)
  with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
    tf.import_graph_def(
      tf.compat.v1.graph_util.extract_sub_graph(meta.graph_def, [output]), name=""
    )
    for op in graph.get_operations():
      if op.type == "VariableV2":
        session.run(tf.raw_ops.Assign(ref=op.outputs[0], value=arrays[op.name]))
    expected = session.run(
      f"{output}:0", {"model/Placeholder:0": patches, "model/Placeholder_2:0": False}
    )
  logits, embedding = musicnn.apply(arrays, patches)
  assert embedding.shape == (2, 200)
  np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-4)
