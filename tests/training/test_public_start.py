"""A tiny MuLan begins with AST and BERT files, trains, is exported, and needs the files no more."""

import shutil

import jax
import numpy as np
import pytest

from melody_jax import bundle
from melody_jax.encoders.style import StyleEncoder
from melody_jax.errors import UserError
from melody_jax.export import export
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.models import mulan
from melody_jax.task import make_task
from melody_jax.training import loop
from melody_jax.training.checkpoint import load_params
from melody_jax.training.initial_params import with_public_params
from melody_jax.training.state import make_init
from tests.configs import load_config

torch = pytest.importorskip("torch", reason="parity tests need the [parity] extra")
transformers = pytest.importorskip("transformers", reason="parity tests need the [parity] extra")
pytestmark = pytest.mark.parity

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "low", "high", "tone", "##s"]


@pytest.fixture(scope="module")
def public(tmp_path_factory):
  """Directories ast/ and bert/ as they are published, with small random models in them."""
  root = tmp_path_factory.mktemp("public")
  torch.manual_seed(0)
  sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
  ast = transformers.ASTConfig(**sizes, intermediate_size=32, num_mel_bins=32, max_length=128)
  transformers.ASTForAudioClassification(ast).save_pretrained(root / "ast")
  bert = transformers.BertConfig(**sizes, intermediate_size=32, vocab_size=len(WORDS))
  transformers.BertForPreTraining(bert).save_pretrained(root / "bert")
  (root / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  return root


@pytest.fixture(scope="module")
def config(public, tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for split in ("train", "validation"):
    writer = ShardWriter(root, split, 0, 1, {"audio": Feature(24_000, "int16")})
    for i, caption in enumerate(("low tone", "high tones")):
      t = np.arange(2 * 24_000) / 24_000
      wave = 8000 * np.sin(2 * np.pi * 220 * (4 * i + 1) * t)
      writer.write({"id": str(i), "captions": [caption]}, {"audio": wave.astype(np.int16)})
    writer.close()
  c = load_config("mulan", "tiny")
  c.data.path = str(root)
  c.window_seconds = 1.0
  c.model.update(
    window_samples=24_000, music_rate=16_000, music_front="kaldi", n_fft=512, win_length=400,
    hop_length=160, patch_stride=10, music_layers=2, music_pooling="cls_distillation",
    text_layers=2, text_pooling="pooler", text_vocab=len(WORDS),
    music_init=str(public / "ast"), text_init=str(public / "bert"),
  )  # fmt: skip
  c.train.update(steps=3, batch_size=2, save_every=2, eval_every=3, log_every=1)
  c.optimizer.warmup_steps = 1
  return c


def _new_state(config):
  task = make_task(config)
  init, _, _ = make_init(config, task)
  return jax.jit(init)(jax.random.key(0)), task


def test_a_new_run_begins_with_both_files(config, capsys):
  state, task = _new_state(config)
  begun = with_public_params(state, task).params
  given = mulan.public_params(task.model_config)
  assert set(given) == {"music_tower", "text_body"}
  for body in given:
    assert jax.tree.structure(begun[body]) == jax.tree.structure(given[body])
    for a, b in zip(jax.tree.leaves(begun[body]), jax.tree.leaves(given[body]), strict=True):
      np.testing.assert_array_equal(a, b)
  line = capsys.readouterr().err
  assert "from the public checkpoints of config.model" in line
  heads = [f"{n}/{part}" for n in ("text_inner", "text_outer") for part in ("bias", "kernel")]
  new = ["music_head/bias", "music_head/kernel", "temperature/log_scale", *heads]
  assert set(line.split("not in it: ")[1].strip().split(", ")) == set(new)


def test_it_trains_exports_and_embeds_without_the_files(config, public, tmp_path, capsys):
  copy = config.copy_and_resolve_references()
  for name in ("ast", "bert"):
    shutil.copytree(public / name, tmp_path / name)
  copy.model.update(music_init=str(tmp_path / "ast"), text_init=str(tmp_path / "bert"))
  loop.train(copy, tmp_path / "run")
  assert "begins with" in capsys.readouterr().err
  copy.export.bundle, copy.export.dtype = str(tmp_path / "bundle"), "float32"
  export(copy, tmp_path / "run")

  start = mulan.public_params(make_task(config).model_config)
  trained, _ = load_params(tmp_path / "run")
  for body in start:
    moved = [
      float(np.abs(a - b).max())
      for a, b in zip(jax.tree.leaves(trained[body]), jax.tree.leaves(start[body]), strict=True)
    ]
    # Steps of Adam are as large as the learning rate: near the start, and away from it.
    assert 0 < max(moved) < 4 * copy.optimizer.learning_rate

  # On another machine the checkpoints are not there.
  for name in ("ast", "bert"):
    shutil.rmtree(tmp_path / name)
  moved_bundle = tmp_path / "elsewhere"
  (tmp_path / "bundle").rename(moved_bundle)
  style = StyleEncoder.load(moved_bundle, fitted=False)
  texts = np.asarray(style.text(["low tone", "high tones", "high"]))
  assert texts.shape == (3, 128) and not np.allclose(texts[0], texts[1], atol=1e-4)
  ids, mask = make_task(config).tokenizer().batch(["low tone"])
  expected = mulan.embed_text(trained, make_task(config).model_config, ids, mask)
  np.testing.assert_allclose(texts[:1], expected, atol=1e-5)
  audio = 0.1 * np.random.default_rng(0).normal(size=(1, 40_000)).astype(np.float32)
  music = np.asarray(style.audio(audio))
  np.testing.assert_allclose(
    music, mulan.embed_music(trained, make_task(config).model_config, audio), atol=1e-5
  )


def test_a_resumed_run_reads_no_public_file(config, public, tmp_path):
  copy = config.copy_and_resolve_references()
  copy.train.steps = 2
  shutil.copytree(public / "ast", tmp_path / "ast")
  copy.model.music_init = str(tmp_path / "ast" / "model.safetensors")
  loop.train(copy, tmp_path / "run")
  shutil.rmtree(tmp_path / "ast")
  copy.train.steps = 3
  assert int(loop.train(copy, tmp_path / "run").step) == 3
  with pytest.raises(UserError, match="cannot read .*no such file"):
    loop.train(copy, tmp_path / "new")


def test_wrong_files_are_refused_in_one_line(config, public, tmp_path):
  def begin(**changes):
    copy = config.copy_and_resolve_references()
    copy.model.update(changes)
    state, task = _new_state(copy)
    return with_public_params(state, task)

  with pytest.raises(UserError, match=r"no tensor .*AST-shaped"):
    begin(music_init=str(public / "bert"))
  with pytest.raises(UserError, match=r"no tensor .*BERT-shaped"):
    begin(text_init=str(public / "ast"))
  with pytest.raises(UserError, match="config.model asks for"):
    begin(music_mlp=48)
  (tmp_path / "model.safetensors").write_text("words")
  with pytest.raises(UserError, match="must be a safetensors file"):
    begin(music_init=str(tmp_path))
  few = config.copy_and_resolve_references()
  few.model.text_vocab = 5
  with pytest.raises(UserError, match="has 9 words, config.model.text_vocab is 5"):
    make_task(few).tokenizer()


def test_the_shipped_preset_brings_no_tokenizer(tmp_path):
  assert make_task(load_config("mulan", "nano")).export_files() == {}
  assert not bundle.is_foreign(tmp_path / "none.safetensors")
