"""The adapters of models that the project has: windows, names, digests."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation.embeddings.adapter import cut_windows
from melody_jax.evaluation.embeddings.choice import load
from melody_jax.evaluation.embeddings.mulan import MulanEmbedding
from melody_jax.evaluation.embeddings.tagger import TaggerEmbedding
from melody_jax.evaluation.musicnn import tagger as musicnn
from tests.evaluation.random_tagger import random_params

RATE = 24_000


@pytest.fixture(scope="module")
def tagger():
  params = random_params(np.random.default_rng(0))
  return musicnn.Tagger("MSD", params, tuple(f"tag {i}" for i in range(50)))


def test_windows_cover_a_clip_to_its_end():
  clip = np.arange(10)
  np.testing.assert_array_equal(cut_windows(clip, 4, 4)[:, 0], [0, 4, 6])
  np.testing.assert_array_equal(cut_windows(clip, 4, 3)[:, -1], [3, 6, 9])
  np.testing.assert_array_equal(cut_windows(clip[:3], 4, 2), [[0, 1, 2, 0]])


def test_the_tagger_hears_every_second(tagger):
  embedding = TaggerEmbedding(tagger)
  audio = np.random.default_rng(1).normal(size=6 * 16_000).astype(np.float32) * 0.1
  vectors = embedding(audio)
  # 376 frames: starts 0, 62, 124, 186, and 189 at the end.
  assert vectors.shape == (5, 200) and embedding.name == "musicnn-MSD"
  # The window is the same whatever lies around it; its ends hear the neighbours.
  alone = embedding(audio[: 3 * 16_000 - 128])
  np.testing.assert_allclose(alone[0], vectors[0], atol=0.05 * np.abs(vectors).max())
  other = dict(tagger.params) | {"dense/bias": tagger.params["dense/bias"] + 1}
  assert TaggerEmbedding(musicnn.Tagger("MSD", other, tagger.tags)).digest != embedding.digest


def test_mulan_is_deaf_to_level(tiny_models):
  embedding = MulanEmbedding(str(tiny_models))
  audio = np.random.default_rng(2).normal(size=3 * RATE).astype(np.float32) * 0.05
  loud, quiet = embedding(audio), embedding(audio / 8)
  np.testing.assert_allclose(np.linalg.norm(loud, axis=1), 1.0, atol=1e-5)
  np.testing.assert_allclose(loud, quiet, atol=1e-4)
  assert embedding.sample_rate == RATE and len(embedding.digest) == 64


def test_choices_are_named_and_mistakes_are_one_line(tiny_models, tmp_path):
  (embedding,) = load("mulan", str(tiny_models))
  assert embedding.name == "MuLan"
  for wrong, message in (
    ("", "config.audio.embeddings is empty"),
    ("mulan,vgg", "'vgg'; it must be one of"),
    ("mulan,mulan", "twice"),
    ("vggish", "vggish=FILE"),
    ("mulan=x", "takes no file"),
  ):
    with pytest.raises(UserError, match=message):
      load(wrong, str(tiny_models))
  with pytest.raises(UserError, match="mulan"):
    load("mulan", str(tmp_path))
