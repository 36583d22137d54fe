"""Recorded corpus: files, credits, scenes and captions on a make-believe package tree."""

import json
import warnings

import librosa
import numpy as np
import pytest
import soundfile

from data.descriptors import ClipWords, measure, percussive_share, words
from data.recorded.corpus import RecordedCorpus
from data.recorded.packages import PACKAGES, credits_of, music_files
from data.recorded.scenes import find_scene, find_style
from data.recorded.words import describe_recording
from tests.data.conftest import tone

BY_NAME = {package.name: package for package in PACKAGES}
UNKNOWN = ClipWords("", "", "", "", "", 0)


def put(root, where, text=None):
  path = root / where
  path.parent.mkdir(parents=True, exist_ok=True)
  if text is None:
    soundfile.write(path, tone(11, 22_050, seed=len(where)), 22_050)
  else:
    path.write_text(text)
  return path


def test_only_music_is_taken(tmp_path):
  root = tmp_path / "supertux-data"
  for where in (
    "usr/music/forest/a.ogg",
    "usr/sounds/hit.ogg",
    "usr/speech/music/hello.ogg",
    "usr/music/a.music",
  ):
    put(root, where, "x")
  (root / "usr/music/link.ogg").symlink_to(root / "usr/music/forest/a.ogg")
  assert music_files(BY_NAME["supertux-data"], root).files == ("usr/music/forest/a.ogg",)
  stems = tmp_path / "fretsonfire-songs-sectoid"
  for where in ("songs/x/song.ogg", "songs/x/guitar.ogg"):
    put(stems, where, "x")
  assert music_files(BY_NAME["fretsonfire-songs-sectoid"], stems).files == ("songs/x/song.ogg",)


def test_licences_per_file(tmp_path):
  put(tmp_path, "usr/share/doc/ufoai-music/copyright", (
      "Files: *\nCopyright: team\nLicense: GPL-2+\n\n"
      "Files:\n base/music/David01.ogg\n base/sound/x.ogg\nCopyright:\n Someone\n"
      "License: CC-BY-3.0\n"))  # fmt: skip
  files = ["pk3/music/David01.ogg", "pk3/music/other.ogg"]
  rows = credits_of(BY_NAME["ufoai-music"], tmp_path, files)
  assert rows[files[0]]["licence"] == "CC-BY-3.0" and "David" in rows[files[0]]["author"]
  assert rows[files[1]]["licence"] == "GPL-2+"


def test_naev_credits_and_dual_licences(tmp_path):
  put(tmp_path, "usr/share/naev/dat/snd/SOUND_LICENSE.yaml", (
      "- A. Person <a@b.c>:\n   license: GPLv3 / CC-by 3\n   music:\n"
      "     - one.ogg\n   sounds:\n     - two.ogg\n"
      "- Other (http://x):\n   license: CC-by-sa 4.0\n   music:\n     - three.ogg\n"))  # fmt: skip
  rows = credits_of(
    BY_NAME["naev-data"], tmp_path, [f"snd/music/{n}.ogg" for n in ("one", "two", "three")]
  )
  assert [row["licence"] for row in rows.values()] == [
    "GPL-3 or CC-BY-3.0",
    "GPL-3+",
    "CC-BY-SA-4.0",
  ]
  assert [row["author"] for row in rows.values()] == ["A. Person", "", "Other"]


def test_warzone_albums_give_licence_title_and_tempo(tmp_path):
  names = {"track3_enhanced.opus": "3", "track9.opus": "Nine"}
  entries = [{"filename": name, "title": title, "bpm": 80} for name, title in names.items()]
  album = {"title": "T", "author": "A", "tracks": entries}
  put(tmp_path, "music/albums/x/album.json", json.dumps(album))
  put(tmp_path, "music/albums/x/license.txt", "CC-BY-SA")
  files = ["music/albums/x/track3_enhanced.opus", "music/albums/x/track9.opus", "music/menu.opus"]
  rows = credits_of(BY_NAME["warzone2100-music"], tmp_path, files)
  assert [rows[f]["licence"] for f in files] == ["GPL-2+", "CC-BY-SA-3.0+ or GPL-2+", "GPL-2+"]
  assert rows[files[1]]["title"] == "Nine" and rows[files[1]]["bpm"] == 80


@pytest.mark.parametrize(("path", "title", "phrase"), [
    ("wesnoth/core/music/battle-epic.ogg", "", "an epic battle"),
    ("supertux/music/antarctic/jewels.ogg", "", "a snowy landscape"),
    ("naev/snd/music/void_sensor.ogg", "", "a journey through space"),
    ("wesnoth/core/music/loyalists.ogg", "Loyalists", None),
    ("warzone/games/warzone2100/music/albums/a/track1.opus", "Track 1", None),
])  # fmt: skip
def test_scenes_come_from_folder_name_and_title_only(path, title, phrase):
  scene = find_scene(path, title)
  assert (scene.phrase if scene else None) == phrase
  assert find_style("supertux/music/retro/x.ogg")[0] == "chiptune dance music"


def test_captions_hold_no_titles_and_are_several():
  rng = np.random.default_rng(0)
  heard = ClipWords("calm", "bright", "with little percussion", "", "minor", 84)
  for name, package in BY_NAME.items():
    described = describe_recording(
      rng, package, f"{name}/music/Zyzzyva battle.ogg", "Zyzzyva Battle", "", heard
    )
    assert 4 <= len(described.captions) == len(set(described.captions))
    assert all("zyzzyva" not in caption.lower() for caption in described.captions)
    assert all(
      ", ," not in caption and "  " not in caption and caption == caption.strip(" ,")
      for caption in described.captions
    )
    assert any("84 bpm" in caption for caption in described.captions) and "slow" in described.tags
    plain = describe_recording(rng, package, f"{name}/music/x.ogg", "", "", UNKNOWN)
    assert all(plain.captions) and plain.tags


def test_measured_words_are_right_where_they_are_clear():
  rate = 24_000
  t = np.arange(15 * rate) / rate
  rng = np.random.default_rng(0)
  clicks = np.zeros_like(t)
  clicks[:: rate // 2] = 1.0
  drums = np.convolve(clicks, np.exp(-np.arange(1200) / 150) * rng.standard_normal(1200))[: len(t)]
  heard = words(measure(drums.astype(np.float32), rate))
  assert heard.percussion == "with strong percussion"
  assert abs(heard.tempo - 120) <= 4
  assert words(measure(rng.standard_normal(10 * rate).astype(np.float32), rate)).colour == "bright"
  chord = sum(np.sin(2 * np.pi * f * t) for f in (110.0, 130.8, 164.8, 220.0))
  heard = words(measure(chord.astype(np.float32), rate))
  assert heard.percussion == "with little percussion" and heard.colour == "dark-toned"
  assert heard.mode == "minor"


@pytest.mark.parametrize("frames", [7, 200])
def test_the_percussive_share_is_that_of_librosas_filters(frames):
  mel = np.random.default_rng(0).gamma(0.3, size=(96, frames)).astype(np.float32)
  mel[:, : frames // 3] = 0
  tones, beats = (float((part**2).sum()) for part in librosa.decompose.hpss(np.sqrt(mel)))
  assert percussive_share(mel) == pytest.approx(beats / (beats + tones), rel=1e-4)
  assert percussive_share(np.zeros_like(mel)) == 0


def test_a_clip_without_a_tone_is_not_asked_for_its_tuning():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert words(measure(np.zeros(120_000, np.float32), 24_000)).mode == ""


def test_corpus_reads_unpacked_packages_without_fetching(tmp_path):
  chosen = tuple(BY_NAME[name] for name in ("pushover-data", "singularity-music"))
  put(tmp_path, "pushover-data/usr/share/pushover/themes/aztec.ogg")
  for i in range(3):
    put(tmp_path, f"singularity-music/usr/music/Nebula {i}.ogg")
  corpus = RecordedCorpus(tmp_path, chosen)
  tracks = corpus.tracks()
  assert [t.split for t in tracks if t.package == "pushover-data"] == ["test_other"]
  assert tracks[0].id == "pushover-data/usr/share/pushover/themes/aztec.ogg"
  audio = corpus.load(tracks[-1])
  described = corpus.describe(tracks[-1], 0, audio)
  again = corpus.describe(tracks[-1], 0, audio)
  assert described == again and "space" in " ".join(described.captions)
