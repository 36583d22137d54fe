"""One recording under two names is found, and other music is not."""

import numpy as np
import pytest
import soundfile

from data.duplicates import DistinctCorpus, duplicate_groups, frame_hashes
from data.music_folder.corpus import FolderCorpus
from melody_jax.audio_io import SAMPLE_RATE


def tune(seed, seconds=20):
  """Random notes of three partials, a quarter of a second each, with a little noise."""
  rng = np.random.default_rng(seed)
  t = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
  notes = 220 * 2 ** (rng.integers(0, 36, (seconds * 4, 2)) / 12)
  sound = [
    sum(np.sin(2 * np.pi * f * k * t) / k for f in pair for k in (1, 2, 3)) * np.exp(-4 * t)
    for pair in notes
  ]
  return 0.1 * np.concatenate(sound) + 1e-3 * rng.standard_normal(len(t) * seconds * 4)


def test_louder_cut_and_encoded_again_is_the_same_and_another_tune_is_not(tmp_path):
  first, second = tune(0), tune(1)
  soundfile.write(tmp_path / "x.ogg", first, SAMPLE_RATE)
  again, _ = soundfile.read(tmp_path / "x.ogg")
  cut = 2.5 * first[3 * SAMPLE_RATE + 777 :]
  tracks = [
    first,
    second,
    again,
    cut,
    tune(2),
    first[: 5 * SAMPLE_RATE],
    np.zeros(SAMPLE_RATE * 20),
  ]
  hashes = [frame_hashes(x.astype(np.float32)) for x in tracks]
  assert duplicate_groups(hashes) == [[0, 2, 3]]  # of five seconds too little is in common
  assert duplicate_groups([]) == [] and not len(frame_hashes(np.zeros(9, np.float32)))


@pytest.mark.parametrize("drop", [False, True])
def test_duplicates_share_the_split_that_is_held_back_most(tmp_path, drop):
  for i in range(24):
    soundfile.write(tmp_path / f"{i:02d}.flac", tune(i % 23, 11), SAMPLE_RATE)
  (tmp_path / "captions.csv").write_text("file,caption,split\n00.flac,a,train\n23.flac,b,test\n")
  corpus = FolderCorpus(tmp_path, tmp_path / "captions.csv")
  before = {track.id: track for track in corpus.tracks()}
  distinct = DistinctCorpus(corpus, drop)
  after = {track.id: track for track in distinct.tracks()}
  (one,) = (name for name in before if name.endswith("00.flac"))
  (other,) = (name for name in before if name.endswith("23.flac"))
  assert before[one].split == "train" and after[one].split == "test"
  assert set(before) - set(after) == ({other} if drop else set())
  assert all(after[name] == before[name] for name in after if name != one)
  assert any(one in note for note in distinct.notes)
