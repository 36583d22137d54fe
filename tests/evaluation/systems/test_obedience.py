"""Words of prompts, and clips judged by them from files on."""

import json

import numpy as np
import pytest
import soundfile

from melody_jax.errors import UserError
from melody_jax.evaluation.embeddings import choice
from melody_jax.evaluation.musicnn.tagger import Tagger
from melody_jax.evaluation.systems import obedience
from melody_jax.evaluation.systems.audio import audio
from melody_jax.evaluation.systems.prompt_words import FAMILIES, asked_tags, family_of, tempo_of
from tests.configs import load_config
from tests.evaluation.random_tagger import random_params
from tests.evaluation.systems.songs import RATE, Bands, write

TAGS = (*FAMILIES, *(f"tag {i}" for i in range(42)))


@pytest.mark.parametrize(
  "prompt, family",
  [
    ("calm solo piano", "piano"),
    ("String quartet playing a waltz", "strings"),
    ("nylon guitar bossa nova", "guitar"),
    ("rock with distorted guitars", ""),
    ("a flute melody over strings", "flute"),
    ("fast funk drum groove with bass", "drums"),
    ("minimal techno beat", "techno"),
    ("slow ambient pads", "ambient"),
    ("epic choir with orchestra", "choir"),
    ("pianola rolls", ""),
  ],
)
def test_the_family_named_first_is_asked_for(prompt, family):
  assert family_of(prompt) == family


def test_tags_are_asked_for_by_their_words():
  tags = ("guitar", "no vocals", "drums", "choral", "fast")
  assert asked_tags("Fast guitars and percussion", tags) == [True, False, True, False, True]
  assert asked_tags("a choir, no vocals, breakfast", tags) == [False, True, False, True, False]


def test_a_tempo_is_said_once():
  assert [tempo_of(t) for t in ("slow waltz", "FAST techno", "slow, then fast", "belfast")] == [
    "slow", "fast", "", "",
  ]  # fmt: skip


def _clicks(folder, name, prompt, rate):
  """Three seconds with so many clicks a second."""
  audio = 0.001 * np.random.default_rng(len(name)).normal(size=3 * RATE)
  for start in np.arange(0.1, 2.9, 1 / rate):
    at = int(start * RATE)
    audio[at : at + 200] += 0.5 * np.hanning(200)
  soundfile.write(folder / f"{name}.wav", audio, RATE)
  (folder / f"{name}.json").write_text(json.dumps({"prompt": prompt}))


def _config(music, out):
  c = load_config("evaluate", "audio")
  c.generated, c.reference, c.out = str(music / "generated"), str(music / "reference"), str(out)
  c.audio.update({"notes": "none", "embeddings": "musicnn", "players": 0})
  return c


@pytest.fixture
def music(tmp_path, monkeypatch):
  monkeypatch.setattr(choice, "load", lambda words, bundle: [Bands()])
  write(tmp_path / "reference", 3)
  folder = tmp_path / "generated"
  folder.mkdir()
  for i in range(3):
    _clicks(folder, f"s{i}", f"slow piano number {i}", 1)
    _clicks(folder, f"f{i}", f"fast techno number {i}", 6)
  return tmp_path


def test_clips_are_judged_by_the_words_of_their_reports(music, monkeypatch):
  tagger = Tagger("MTT", random_params(np.random.default_rng(0)), TAGS)
  monkeypatch.setattr(obedience, "load", lambda model: tagger)
  found = audio(_config(music, music / "out"))
  judged = found.values["prompts"]
  assert judged["tempo"]["auc"] == 1.0 and judged["tempo"]["p_value"] == pytest.approx(1 / 20)
  assert judged["tempo"]["fast"] > 2 * judged["tempo"]["slow"]
  assert set(judged["family"]["by_family"]) == {"piano", "techno"}
  assert judged["family"]["chance"] <= 0.5 and judged["tags"]["clips"] == 6
  assert "right family of 8 by musicnn-MTT" in found.markdown
  assert "fast prompts" in found.markdown


def test_without_the_tagger_onsets_are_still_compared(music, monkeypatch):
  def absent(model):
    raise UserError("cannot fetch the musicnn tagger")

  monkeypatch.setattr(obedience, "load", absent)
  found = audio(_config(music, music / "out"))
  assert found.values["prompts"]["family"] is None and found.values["prompts"]["tags"] is None
  assert found.values["prompts"]["tempo"]["auc"] == 1.0
  assert any("Tags were not judged" in line for line in found.values["cautions"])
