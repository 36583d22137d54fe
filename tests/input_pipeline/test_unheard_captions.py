"""Captions that a text tower hears in part are counted and told once, before training."""

import dataclasses

import numpy as np
import pytest

from melody_jax import cli
from melody_jax.input_pipeline import unheard_captions
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.input_pipeline.source import make_source
from melody_jax.task import make_task


@dataclasses.dataclass
class Words:
  """A tokeniser of whole words that knows small letters only."""

  length: int = 3

  def losses(self, texts):
    return [(len(text.split()) > self.length, not text.islower()) for text in texts]

  def unheard(self, text):
    words = text.split()
    return " ".join(words[self.length :]), [w for w in words[: self.length] if not w.islower()]


def told(captions):
  lines = []
  unheard_captions.tell(captions, Words(), "train", lines.append)
  return lines


def test_what_is_lost_is_counted_once_a_caption():
  cut, unknown = told(["a b c", "a b c d e", "a b c d e", "a B", "a b c D"])
  assert cut.startswith("train: 2 of 4 captions are longer than the 3 tokens")
  assert cut.endswith("(the first: 'd e')")
  assert unknown.startswith("train: 2 of 4 captions hold words") and "'B'" in unknown


def test_nothing_is_said_where_all_is_heard(monkeypatch):
  monkeypatch.setattr(unheard_captions, "_BATCH", 1)
  assert told(["a", "b", "a b c"]) == [] and told([]) == []


def test_training_says_it_for_its_own_split_alone(tmp_path, capsys):
  pytest.importorskip("tokenizers")
  for split in ("train", "validation"):
    writer = ShardWriter(tmp_path, split, 0, 1, {"audio": Feature(24_000, "int16")})
    captions = ["slow waltz", "loud drums, " * 50, "\N{CJK UNIFIED IDEOGRAPH-5409} guitar"]
    audio = np.ones(11 * 24_000, np.int16)
    writer.write({"id": split, "captions": captions}, {"audio": audio})
    writer.close()
  flags = [f"--config.data.path={tmp_path}", "--config.train.batch_size=1"]
  config, _ = cli.parse(["train", "--config=mulan:tiny", *flags])
  task = make_task(config)
  make_source(config, task, "validation")
  assert not capsys.readouterr().err
  make_source(config, task, "train")
  lines = capsys.readouterr().err.splitlines()
  length = task.model_config.text_length
  assert lines[0].startswith(f"split 'train': 1 of 3 captions are longer than the {length} tokens")
  assert all(line.startswith("split 'train': 1 of 3 captions") for line in lines)
