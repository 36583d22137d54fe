"""Parts of a comparison on clips whose numbers are known."""

import dataclasses
import pathlib

import numpy as np
import pytest

from melody_jax.evaluation.embeddings.tagger import TaggerEmbedding
from melody_jax.evaluation.musicnn.tagger import Tagger
from melody_jax.evaluation.systems.compare import diversity, neighbours, prompt_agreement, summary
from melody_jax.evaluation.systems.measure import MeasuredClip
from melody_jax.metrics.frechet import fit_gaussian, frechet_distance
from melody_jax.metrics.kernel_distance import kernel_distance
from tests.evaluation.random_tagger import random_params
from tests.evaluation.systems.songs import song


def _clip(name, vector, chroma=None, **numbers):
  chroma = np.random.default_rng(len(name)).random((12, 9)) if chroma is None else chroma
  return MeasuredClip(
    path=pathlib.Path(name), name=name, sha256=name, rate=24_000, seconds=1.0, is_cut=False,
    numbers=numbers, key="", chroma_PxT=chroma.astype(np.float32),
    embeddings={"MuLan": np.asarray(vector, np.float32)[None]},
  )  # fmt: skip


def test_noise_on_audio_raises_both_distances():
  """At five levels, through a network of random weights."""
  tagger = Tagger("MSD", random_params(np.random.default_rng(0)), tuple(map(str, range(50))))
  embed = TaggerEmbedding(tagger)

  def vectors(first, noise):
    clips = [song(first + i, 2.9, 16_000, noise).astype(np.float32) for i in range(6)]
    return np.concatenate([embed(clip) for clip in clips])

  reference = vectors(100, 0.0)
  found = [vectors(0, noise) for noise in (0.003, 0.01, 0.03, 0.1, 0.3)]
  fads = [frechet_distance(fit_gaussian(x), fit_gaussian(reference)) for x in found]
  kads = [kernel_distance(x, reference) for x in found]
  assert fads == sorted(fads) and fads[-1] > 2 * fads[0]
  assert kads == sorted(kads)


def test_mcc_pairs_clips_with_their_own_prompts():
  clips = [_clip("a", [1, 0]), _clip("b", [0, 2]), _clip("c", [1, 1])]
  prompts = {"a": "x", "b": "y"}
  found = prompt_agreement(np.array([[1.0, 0.0], [1.0, 1.0]]), clips, prompts, ["x", "y"])
  assert found["mcc"] == pytest.approx((1 + np.sqrt(0.5)) / 2)
  assert found["mismatched"] == pytest.approx(np.sqrt(0.5) / 2)
  assert found["clips"] == 2 and set(found["by_clip"]) == {"a", "b"}
  assert prompt_agreement(np.eye(2), clips, {}, ["x", "y"]) is None
  alone = prompt_agreement(np.eye(2)[:1], clips, {"a": "x"}, ["x"])
  assert alone["mcc"] == 1.0 and alone["mismatched"] is None


def test_diversity_over_seeds_is_within_prompts():
  clips = [_clip("a", [1, 0]), _clip("b", [1, 0]), _clip("c", [0, 1]), _clip("d", [0, -1])]
  found = diversity("MuLan", clips, np.zeros(2), {"a": "x", "b": "x", "c": "y", "d": "y"})
  assert found["one_prompt"] == pytest.approx((0.0 + 2.0) / 2)
  assert diversity("MuLan", clips, np.zeros(2))["one_prompt"] is None
  assert diversity("MuLan", clips[:1], np.array([1.0, 0.0]))["all"] is None


def test_neighbours_pass_over_the_same_file_only_where_asked():
  rng = np.random.default_rng(0)
  training = [_clip(str(i), rng.normal(size=4), rng.random((12, 9))) for i in range(5)]
  query = dataclasses.replace(training[2], name="q")
  found = neighbours([query], training, skip_same=False)
  assert found.files == {"MuLan": ["2"], "chroma": ["2"]}
  assert found.by["MuLan"][0] == pytest.approx(1) and found.by["chroma"][0] == pytest.approx(1)
  other = neighbours([query], training, skip_same=True)
  assert other.files["MuLan"] != ["2"] and other.by["chroma"][0] < 0.9


def test_summaries_leave_out_what_is_not_defined():
  clips = [_clip("a", [1], x=1.0, y=np.nan), _clip("b", [1], x=3.0, y=-np.inf)]
  found = summary(clips)
  assert found["x"]["mean"] == 2.0 and found["x"]["clips"] == 2 and found["x"]["q25"] == 1.5
  assert found["y"] == {
    "clips": 0, "mean": None, "std": None, "q25": None, "median": None, "q75": None,
  }  # fmt: skip
