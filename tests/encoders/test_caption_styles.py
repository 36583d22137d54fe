"""Style tokens of captions among those of audio."""

import numpy as np

from melody_jax import encode
from melody_jax.encoders.caption_styles import caption_styles
from melody_jax.encoders.style import StyleEncoder
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from tests import tiny_bundle
from tests.configs import load_config


def _of_texts(texts):
  return np.array([[len(text), 99] for text in texts])


def _replaced(share, keys, captions=("a", "bb")):
  tokens = [np.zeros((10, 2), int) for _ in keys]
  return caption_styles(tokens, [list(captions)] * len(keys), keys, share, _of_texts)


def test_the_share_of_windows_carries_one_of_the_captions():
  keys = [f"clip {i}" for i in range(100)]
  rows = np.concatenate(_replaced(0.3, keys))
  taken = rows[:, 1] == 99
  assert 0.25 < taken.mean() < 0.35
  assert set(rows[taken, 0]) == {1, 2}  # either caption
  assert not rows[~taken].any()


def test_none_and_all():
  assert not np.any(_replaced(0.0, ["a"]))
  assert np.all(np.array(_replaced(1.0, ["a"]))[..., 1] == 99)


def test_a_clip_without_captions_keeps_its_own():
  assert not np.any(_replaced(1.0, ["a"], ()))


def test_the_draw_is_the_clips_own():
  together = _replaced(0.5, ["a", "b", "c"])
  alone = _replaced(0.5, ["c"])
  np.testing.assert_array_equal(together[2], alone[0])


def test_encode_gives_them_to_the_train_split_alone(tmp_path):
  bundle = tiny_bundle.write(tmp_path / "bundle", ("mulan",))
  audio = np.random.default_rng(0).integers(-9000, 9000, 60_000)
  for split in ("train", "validation"):
    writer = ShardWriter(tmp_path / "in", split, 0, 1, {"audio": Feature(24_000, "int16")})
    writer.write({"id": "one", "captions": ["slow harp"]}, {"audio": audio})
    writer.close()
  config = load_config("encode")
  config.update(
    source=str(tmp_path / "in"), out=str(tmp_path / "out"), bundle=str(bundle), shards=1
  )
  config.update(features="style_tokens", caption_styles=1.0)
  encode.main(config)
  style = StyleEncoder.load(bundle)
  of_text, (of_audio,) = (
    style.tokens_of_texts(["slow harp"]),
    style.tokens_of_clips([audio.astype("f4") / 32768], 2.5),
  )
  train, held = (
    Dataset(tmp_path / "out", split).read(0, "style_tokens") for split in ("train", "validation")
  )
  np.testing.assert_array_equal(train, of_text)
  np.testing.assert_array_equal(held, of_audio)
  assert not np.array_equal(of_text, of_audio)
