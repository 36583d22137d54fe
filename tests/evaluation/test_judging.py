"""Tokens, retrieval and prompts on synthetic material."""

import json

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation.clips import Clip
from melody_jax.evaluation.finding import Finding, number, write
from melody_jax.evaluation.mulan import evaluate_mulan, relevance
from melody_jax.evaluation.prompts import JudgedPrompt, centred, generate_all, judge, tag_scores
from melody_jax.evaluation.tokens import FIRST, evaluate_tokens
from melody_jax.provenance import MARK


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _clip(i, *captions):
  return Clip({"id": f"{i}#0", "track": str(i), "captions": list(captions)}, 0.0, {})


def test_a_model_that_halves_the_entropy_is_fifty_per_cent_under():
  tokens = np.tile(np.arange(16), (5, 2))
  style = np.zeros((5, 3), int)

  def half(style, semantic):
    return np.full(semantic.shape, np.log(4)), np.full(semantic.shape, np.log(16))

  finding = evaluate_tokens({"a": (tokens, style), "b": (tokens[:2], style[:2])}, 1024, half, 4)
  assert finding.values["used"] == 16
  assert finding.values["per_cent_under_unigram"] == pytest.approx(50.0)
  assert finding.values["datasets"]["all"]["n_tokens"] == 7 * 32
  without = evaluate_tokens({"a": (tokens, style)}, 1024, None)
  assert "per_cent_under_unigram" not in without.values


def test_style_is_measured_in_the_first_second_against_another_windows():
  style = np.arange(4)[:, None]
  tokens = style + np.zeros((4, 2 * FIRST), int)
  first = np.arange(2 * FIRST)[None] < FIRST

  def score(style, semantic):
    # The right style is worth a nat at first, a wrong one costs two.
    right = np.where(first, np.where(style[:, :1] == semantic[:, :1], 2.0, 5.0), 7.0)
    return right, np.where(first, 3.0, 7.0) + np.zeros(semantic.shape)

  entry = evaluate_tokens({"a": (tokens, style)}, 1024, score, 3).values["datasets"]["a"]
  assert entry["style_gain_first"] == pytest.approx(1.0)
  assert entry["wrong_style_gain_first"] == pytest.approx(-2.0)


def test_a_tokeniser_that_knows_one_token_has_no_share():
  same, style = np.zeros((3, 8), int), np.zeros((3, 3), int)

  def score(style, semantic):
    return np.full(semantic.shape, 0.5), np.full(semantic.shape, 0.5)

  finding = evaluate_tokens({"a": (same, style)}, 1024, score, 4)
  assert finding.values["used"] == 1 and np.isnan(finding.values["per_cent_under_unigram"])


def test_relevance_is_by_caption():
  clips = [_clip(0, "Jazz", "piano trio"), _clip(1, "jazz."), _clip(2, "rock")]
  np.testing.assert_array_equal(
    relevance(["jazz", "rock", "piano trio"], clips),
    [[True, True, False], [False, False, True], [True, False, False]],
  )


def test_retrieval_of_a_perfect_and_a_blind_model():
  rng = np.random.default_rng(0)
  directions = {f"style {i}": _unit(rng.normal(size=32)) for i in range(30)}
  clips = [_clip(i, f"style {i % 30}") for i in range(60)]
  music = np.stack([directions[f"style {i % 30}"] for i in range(60)])
  rvq = {"utilisation": [0.5, 0.25], "reconstruction_cosine": [0.8, 0.9], "embeddings": 60}
  finding = evaluate_mulan(
    lambda texts: np.stack([directions[t] for t in texts]),
    {"made": music},
    {"made": clips},
    {"made": rvq},
    k=6,
  )
  scores = finding.values["retrieval"]["made"]
  assert scores["recall"] == 1.0 and scores["recall_chance"] == pytest.approx(0.1)
  assert scores["over_chance"] == pytest.approx(10.0)
  assert "25 %" in finding.markdown
  blind = evaluate_mulan(
    lambda texts: np.ones((len(texts), 32)), {"made": np.ones((60, 32))}, {"made": clips}, {}, k=6
  )
  assert blind.values["retrieval"]["made"]["over_chance"] == pytest.approx(1.0)
  with pytest.raises(UserError, match="no caption"):
    evaluate_mulan(lambda texts: np.ones((len(texts), 32)), {"x": music[:1]}, {"x": [_clip(0)]}, {})


PROMPTS = [JudgedPrompt(f"prompt {i}", {"MTT": (f"tag {i}",), "MSD": ("all",)}) for i in range(6)]
TAGS = {"MTT": [f"tag {i}" for i in range(6)], "MSD": ["all"]}


def test_tag_scores_compare_with_what_is_usual():
  probabilities = {"MTT": np.full((6, 6), 0.9) + 0.05 * np.eye(6), "MSD": np.full((6, 1), 0.5)}
  probabilities["MTT"][:, 3] -= 0.8  # a rare tag counts by its own measure
  scores = tag_scores(probabilities, TAGS, PROMPTS)
  np.testing.assert_array_equal(scores.argmax(axis=1), np.arange(6))
  with pytest.raises(UserError, match="no such tag as gong"):
    tag_scores(probabilities, TAGS, [JudgedPrompt("x", {"MTT": ("gong",)})])
  with pytest.raises(UserError, match="no such tag as none"):
    tag_scores(probabilities, TAGS, [JudgedPrompt("x", {})])


def test_generation_is_batched_in_one_size():
  calls = []

  def generate(texts, seeds):
    calls.append(list(zip(texts, seeds, strict=True)))
    return np.array(
      [[float(text[-1]) * 10 + seed] for text, seed in zip(texts, seeds, strict=True)]
    )

  clips = generate_all(generate, PROMPTS[:3], (0, 1, 2), 4, lambda message: None)
  assert [len(call) for call in calls] == [4, 4, 4]
  np.testing.assert_array_equal(clips[:, 0], [0, 1, 2, 10, 11, 12, 20, 21, 22])


def test_judge_reports_faults_and_ranks():
  rng = np.random.default_rng(0)
  rate = 4_000
  clips = rng.normal(size=(12, 2 * rate)) * 0.1 * (1 + np.sin(np.arange(2 * rate) / 900))[None, :]
  clips[3] = 0.0
  good = np.repeat(np.eye(6), 2, axis=0) + rng.normal(size=(12, 6)) * 0.1
  finding = judge(clips, rate, PROMPTS, (0, 1), {"MuLan": good, "centred": centred(good)}, 200, 0)
  assert finding.values["sound"] == {
    "silent": 1,
    "clipped": 0,
    "constant": 1,
    "not_finite": 0,
    "ok": 11,
    "clips": 12,
  }
  assert finding.values["tests"]["MuLan"]["mean_rank"] == 1.0
  assert finding.values["tests"]["MuLan"]["p_value"] < 0.02
  assert "| prompt 1 | 1, 1 | 1, 1 |" in finding.markdown


def test_report_files(tmp_path):
  finding = Finding("codec", {"x": np.float32(1.5), "y": float("inf"), "z": [np.int64(3)]}, "text")
  write(finding, str(tmp_path / "out"), {"seed": 0})
  read = json.loads((tmp_path / "out" / "codec.json").read_text())
  assert read == {"what": "codec", "seed": 0, "x": 1.5, "y": None, "z": [3]}
  assert (tmp_path / "out" / "codec.md").read_text() == f"text\n\n<!-- {MARK} -->\n"


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (12.345, "12.3"),
    (0.0, "0.00"),
    (1234.5, "1234"),
    (0.01234, "0.0123"),
    (-3.14159, "-3.14"),
    (1e-7, "1.00e-07"),
    (float("inf"), "inf"),
    (0.5, "0.500"),
  ],
)
def test_numbers_have_three_digits(value, text):
  assert number(value) == text
