"""The re-implemented tagger against the graph that its authors published."""

import zipfile

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation.musicnn import tagger as musicnn
from melody_jax.host.cache_folders import own_cache
from tests.evaluation.random_tagger import random_params

WHEEL = own_cache() / "musicnn-0.1.0-py3-none-any.whl"


@pytest.fixture(scope="module")
def tagger() -> musicnn.Tagger:
  params = random_params(np.random.default_rng(0))
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
  (matmul,) = (node for node in meta.graph_def.node if node.name == "model/dense_1/MatMul")
  before = matmul.input[0]  # what the last layer reads: the embedding
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
    fed = {"model/Placeholder:0": patches, "model/Placeholder_2:0": False}
    expected, expected_embedding = session.run((f"{output}:0", f"{before}:0"), fed)
  logits, embedding = musicnn.apply(arrays, patches)
  assert embedding.shape == expected_embedding.shape == (2, 200)
  scale = np.abs(expected_embedding).max()
  np.testing.assert_allclose(np.asarray(embedding) / scale, expected_embedding / scale, atol=1e-5)
  np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-4)
