"""Loading, quarantine, loudness, segments."""

import shutil
import subprocess

import numpy as np
import pyloudnorm
import pytest
import soundfile

from data.tracks import (
  SAMPLE_RATE,
  Description,
  Ledger,
  QuarantineError,
  Track,
  examples,
  is_free,
  load_audio,
  normalise,
  segments,
  trimmed,
)
from melody_jax.errors import UserError
from tests.data.conftest import tone


@pytest.mark.parametrize("name", ["a.wav", "b.flac", "album/c.ogg", "d.mp3"])
def test_every_format_rate_and_channel_count_loads_as_mono_24_khz(sounds, name):
  audio = load_audio(sounds / name)
  info = soundfile.info(sounds / name)
  assert audio.ndim == 1 and audio.dtype == np.float32
  assert abs(len(audio) / SAMPLE_RATE - info.duration) < 0.05
  assert 0.05 < np.abs(audio).max() < 1.0


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_what_libsndfile_cannot_read_goes_through_ffmpeg(sounds, tmp_path):
  command = [
    "ffmpeg",
    "-v",
    "error",
    "-i",
    str(sounds / "a.wav"),
    "-c:a",
    "aac",
    str(tmp_path / "a.m4a"),
  ]
  subprocess.run(command, check=True)
  assert abs(len(load_audio(tmp_path / "a.m4a")) / SAMPLE_RATE - 11) < 0.3


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_an_encrypted_stream_is_called_drm(sounds, tmp_path):
  file = tmp_path / "bought.m4p"
  command = [
    "ffmpeg",
    "-v",
    "error",
    "-i",
    str(sounds / "a.wav"),
    "-c:a",
    "aac",
    "-f",
    "mp4",
    str(file),
  ]
  subprocess.run(command, check=True)
  data = file.read_bytes()
  file.write_bytes(data.replace(b"mp4a", b"drms"))
  with pytest.raises(QuarantineError) as error:
    load_audio(file)
  assert error.value.reason == "drm"


@pytest.mark.parametrize(("name", "reason"), [
    ("bad_silent.wav", "silent"), ("bad_short.wav", "too_short"), ("bad_nan.wav", "corrupt"),
    ("bad_broken.ogg", "corrupt"), ("bad_empty.mp3", "corrupt"),
])  # fmt: skip
def test_bad_files_are_put_aside_with_a_reason(sounds, name, reason):
  with pytest.raises(QuarantineError) as error:
    normalise(load_audio(sounds / name))
  assert error.value.reason == reason and error.value.detail


def test_low_rates_are_put_aside_only_where_asked(sounds):
  load_audio(sounds / "a.wav")
  with pytest.raises(QuarantineError, match="low_rate"):
    load_audio(sounds / "a.wav", min_rate=22_050)


@pytest.mark.parametrize("gain", [0.05, 1.0])
def test_normalise_reaches_the_loudness(gain):
  audio = normalise((gain * tone(12, SAMPLE_RATE)).astype(np.float32))
  assert abs(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(audio) + 20) < 0.1


def test_normalise_never_passes_the_peak():
  clicks = np.zeros(SAMPLE_RATE * 12, np.float32)
  clicks[:: SAMPLE_RATE // 5] = 0.5
  assert np.abs(normalise(clicks)).max() <= 0.99 + 1e-6


def test_an_offset_is_no_sound_and_moves_no_loudness():
  with pytest.raises(QuarantineError, match="silent"):
    normalise(np.full(SAMPLE_RATE * 12, 0.5, np.float32))
  plain = tone(12, SAMPLE_RATE).astype(np.float32)
  np.testing.assert_allclose(normalise(plain + np.float32(0.5)), normalise(plain), atol=1e-3)


@pytest.mark.parametrize(
  ("error", "message"),
  [(MemoryError(), "not enough memory"), (OSError(5, "I/O error"), "I/O error")],
)
def test_what_the_machine_is_to_blame_for_is_no_quarantine(error, message):
  class Corpus:
    def load(self, track):
      raise error

  ledger = Ledger()
  with pytest.raises(UserError, match=message):
    list(examples(Corpus(), [Track("p/a", "p", "train")], ledger))
  assert not ledger.quarantined


def test_silent_ends_go_and_silence_between_stays():
  sound = np.ones(SAMPLE_RATE, np.float32)
  silence = np.full(3 * SAMPLE_RATE, 5e-4, np.float32)  # 66 dB under the peak
  kept = trimmed(np.concatenate([silence, sound, silence, sound, silence]))
  assert abs(len(kept) - 6 * SAMPLE_RATE) <= 1
  np.testing.assert_array_equal(np.flatnonzero(kept == 1)[[0, -1]], [12_000, len(kept) - 12_001])
  assert len(trimmed(0 * silence)) == len(silence) and not len(trimmed(sound[:0]))


def test_sound_shorter_than_a_window_between_silences_is_too_short():
  padded = np.concatenate([np.zeros(SAMPLE_RATE * 20), tone(5, SAMPLE_RATE)]).astype(np.float32)
  with pytest.raises(QuarantineError, match="too_short: 5.5 s"):
    normalise(padded)


def test_segments_are_30_s_and_short_tails_are_dropped():
  pcm = np.arange(SAMPLE_RATE * 69, dtype=np.int32)
  pieces = list(segments(pcm))
  assert [k for k, _ in pieces] == [0, 1]
  assert pieces[1][1][0] == 30 * SAMPLE_RATE and len(pieces[1][1]) == 30 * SAMPLE_RATE
  assert len(list(segments(np.arange(SAMPLE_RATE * 70)))[-1][1]) == 10 * SAMPLE_RATE


def test_examples_go_on_past_bad_files(sounds):
  class Corpus:
    def load(self, track):
      return load_audio(sounds / track.title)

    def describe(self, track, k, clip):
      assert clip.dtype == np.float32 and np.abs(clip).max() <= 1
      return Description([f"{track.title} {k}"], ["tag"], {"extra": k})

  names = ["bad_broken.ogg", "album/c.ogg", "bad_silent.wav", "a.wav"]
  tracks = [Track(f"p/{n}", "p", "train", title=n, licence="CC0") for n in names]
  ledger = Ledger()
  rows = list(examples(Corpus(), tracks, ledger))
  assert [record["id"] for _, record, _ in rows] == [
    "p/album/c.ogg#0",
    "p/album/c.ogg#1",
    "p/a.wav#0",
  ]
  assert rows[1][1]["captions"] == ["album/c.ogg 1"] and rows[1][1]["extra"] == 1
  assert all(pcm.dtype == np.int16 for _, _, pcm in rows)
  report = ledger.report()
  assert report["quarantined"] == {"corrupt": 1, "silent": 1}
  assert report["splits"]["train"]["tracks"] == 2
  assert {row["track"] for row in report["quarantined_files"]} == {
    "p/bad_broken.ogg",
    "p/bad_silent.wav",
  }


@pytest.mark.parametrize(("licence", "free"), [
    ("CC-BY-3.0", True), ("CC-BY-SA-3.0+ or GPL-2+", True), ("GPL-3 or CC-BY-3.0", True),
    ("CC0", True), ("public-domain", True), ("GPL-2+", False), ("MIT", False), ("", False),
])  # fmt: skip
def test_free_subset(licence, free):
  assert is_free(licence) == free


@pytest.mark.parametrize("frame", [[1e30], [1e30, -1e30], [np.inf], [np.inf, -np.inf], [np.nan]])
def test_absurd_samples_put_a_file_aside(tmp_path, frame):
  x = np.stack([tone(11)] * len(frame), axis=1).astype(np.float32)
  x[7] = frame
  soundfile.write(tmp_path / "x.wav", x, 8000, "FLOAT")
  with pytest.raises(QuarantineError, match="times full scale|not finite"):
    load_audio(tmp_path / "x.wav")


def test_random_bytes_in_a_file_put_it_aside(tmp_path):
  data = bytearray(np.round(8000 * tone(11)).astype("<i2").tobytes())
  data[100_000:120_000] = np.random.default_rng(0).bytes(20_000)
  soundfile.write(tmp_path / "x.wav", np.frombuffer(bytes(data), "<i2"), 8000)
  with pytest.raises(QuarantineError, match="garbled: .* random numbers at full scale"):
    load_audio(tmp_path / "x.wav")
