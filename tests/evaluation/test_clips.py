"""Reading windows and whole tracks."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation import clips
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import Feature, ShardWriter

RATE = 8


@pytest.fixture
def dataset(tmp_path):
  features = {
    "audio": Feature(RATE, "int16"),
    "style_tokens": Feature(1.0, "int16", (2,), per_window=True),
  }
  writer = ShardWriter(tmp_path, "validation", 0, 1, features)
  for track, number, seconds in (("b/x", 1, 3), ("b/x", 0, 5), ("a/y", 0, 2), ("b/x", 10, 1)):
    audio = np.arange(seconds * RATE) + 1000 * number
    style = np.stack([np.arange(seconds), np.full(seconds, number)], axis=1)
    writer.write(
      {
        "id": f"{track}#{number}",
        "track": track,
        "package": track[0],
        "captions": ["Slow  Jazz.", "slow jazz", "piano"],
      },
      {"audio": audio, "style_tokens": style},
    )
  writer.close()
  return Dataset(tmp_path, "validation")


def test_windows_do_not_overlap_and_features_agree(dataset):
  found = clips.read_windows(dataset, 2.0, ("audio", "style_tokens"))
  assert [(c.record["id"], c.start) for c in found] == [
    ("b/x#1", 0.0),
    ("b/x#0", 0.0),
    ("b/x#0", 2.0),
    ("a/y#0", 0.0),
  ]
  audio, style = clips.stack_clips(found, "audio"), clips.stack_clips(found, "style_tokens")
  assert audio.shape == (4, 16) and audio.dtype == np.float32
  assert style.shape == (4, 2) and style.dtype == np.int32
  assert audio[2, 0] * 32768 == 16 and tuple(style[2]) == (2, 0)


def test_a_draw_is_seeded_and_without_replacement(dataset):
  def places(seed):
    return [
      (c.record["id"], c.start) for c in clips.read_windows(dataset, 1.0, ("audio",), 6, seed)
    ]

  assert places(0) == places(0) and places(0) != places(1)
  assert len(set(places(0))) == 6


def test_missing_features_and_short_records(dataset):
  with pytest.raises(UserError, match="lacks latents"):
    clips.read_windows(dataset, 1.0, ("latents",))
  with pytest.raises(UserError, match="no record is as long"):
    clips.read_windows(dataset, 100.0, ("audio",))


def test_tracks_are_joined_in_order(dataset):
  tracks = {record["track"]: audio for record, audio in clips.whole_tracks(dataset)}
  assert set(tracks) == {"a/y", "b/x"}
  expected = np.concatenate([np.arange(40), 1000 + np.arange(24), 10_000 + np.arange(8)]) / 32768
  np.testing.assert_allclose(tracks["b/x"], expected)


def test_captions_are_compared_without_case_and_space(dataset):
  clip = clips.read_windows(dataset, 2.0, ("audio",))[0]
  assert clip.captions == ("slow jazz", "piano")


def test_batches_keep_their_size():
  seen = []

  def function(x):
    seen.append(len(x))
    return x * 2, x

  doubled, same = clips.in_batches(function, (np.arange(7),), 3)
  assert seen == [3, 3, 3]
  np.testing.assert_array_equal(doubled, np.arange(7) * 2)
  np.testing.assert_array_equal(same, np.arange(7))


def test_named_roots(tmp_path):
  (tmp_path / "one").mkdir()
  roots = clips.named_roots(f"{tmp_path}/one, other={tmp_path}/one")
  assert roots == {"one": tmp_path / "one", "other": tmp_path / "one"}
  with pytest.raises(UserError, match="no dataset directory"):
    clips.named_roots(str(tmp_path / "none"))
  with pytest.raises(UserError, match=r"config\.data is empty"):
    clips.named_roots("")
  (tmp_path / "b" / "one").mkdir(parents=True)
  with pytest.raises(UserError, match="two datasets are named 'one'"):
    clips.named_roots(f"{tmp_path}/one,{tmp_path}/b/one")


def test_the_split_to_measure_on(tmp_path):
  for name, splits in (("a", ("train", "validation")), ("b", ("train", "test")), ("c", ("train",))):
    for split in splits:
      notes = tmp_path / name / "1.0.0" / "shards"
      notes.mkdir(parents=True, exist_ok=True)
      (notes / f"{split}-00000-of-00001.json").write_text("{}")
  a, b, c = (str(tmp_path / name) for name in "abc")
  assert clips.existing_split(f"{a},{c}", "validation") == "validation"
  assert clips.existing_split(f"{a},x={b}", "test_other") == "test"
  assert clips.existing_split(a, "test_other") == "validation"
  assert clips.existing_split(b, "validation") == "test"
  assert clips.existing_split(c, "validation") == "train"
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="no split validation, test, test_other, train"):
    clips.existing_split(str(tmp_path / "empty"), "validation")
