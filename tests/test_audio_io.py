import shutil
import subprocess

import numpy as np
import pytest

from melody_jax import audio_io
from melody_jax.errors import UserError

RATE = audio_io.SAMPLE_RATE


def tone(seconds: float, hz: float = 440.0, rate: int = RATE, level: float = 0.1) -> np.ndarray:
  return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def write(path, samples, rate=RATE):
  path.write_bytes(audio_io.encode(samples, path.suffix, rate))
  return path


@pytest.mark.parametrize("suffix", audio_io.FORMATS)
def test_what_is_written_is_read_back(tmp_path, suffix):
  path = write(tmp_path / f"x{suffix}", tone(2.0))
  back = audio_io.load(path)
  assert back.dtype == np.float32 and len(back) == 2 * RATE
  # Lossy codecs keep the tone: its bin dominates the spectrum.
  assert np.argmax(np.abs(np.fft.rfft(back))) == 880
  assert audio_io.probe_seconds(path) == pytest.approx(2.0, abs=0.01)


def test_pcm_formats_are_exact_to_sixteen_bits(tmp_path):
  x = tone(1.0)
  assert np.abs(audio_io.load(write(tmp_path / "x.flac", x)) - x).max() <= 1 / 32768


def test_long_vorbis_is_encoded_in_blocks(tmp_path):
  path = write(tmp_path / "x.ogg", tone(60.0))
  assert audio_io.probe_seconds(path) == pytest.approx(60.0, abs=0.01)


def test_stereo_at_another_rate_becomes_mono_at_24_khz(tmp_path):
  import soundfile

  left = tone(1.0, 1000.0, 44_100)
  soundfile.write(tmp_path / "x.wav", np.stack([left, 0 * left], 1), 44_100, "FLOAT")
  got = audio_io.load(tmp_path / "x.wav")
  assert len(got) == RATE
  middle = slice(2000, -2000)  # the resampler's filter rings at the ends
  np.testing.assert_allclose(got[middle], 0.5 * tone(1.0, 1000.0)[middle], atol=1e-3)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not on PATH")
def test_ffmpeg_reads_what_libsndfile_does_not(tmp_path):
  write(tmp_path / "x.wav", tone(2.0))
  command = ["ffmpeg", "-v", "error", "-i", "x.wav", "-c:a", "aac", "x.m4a"]
  subprocess.run(command, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
  assert len(audio_io.load(tmp_path / "x.m4a")) == pytest.approx(2 * RATE, abs=3000)


def test_loudness_normalisation_reaches_the_level_and_limits_the_peak():
  quiet = audio_io.normalise_loudness(tone(2.0, level=0.01), lufs=-20.0)
  assert audio_io.loudness(quiet) == pytest.approx(-20.0, abs=0.1)
  click = np.zeros(2 * RATE, np.float32)
  click[::RATE] = 0.5
  assert np.abs(audio_io.normalise_loudness(click, lufs=-10.0)).max() == pytest.approx(
    0.99, abs=1e-4
  )
  silence = np.zeros(RATE, np.float32)
  assert np.array_equal(audio_io.normalise_loudness(silence), silence)


def test_clip_is_brought_to_the_training_level(tmp_path):
  clip = audio_io.load_clip(write(tmp_path / "x.wav", tone(2.0, level=0.02)))
  assert audio_io.loudness(clip) == pytest.approx(audio_io.INPUT_LUFS, abs=0.1)


def test_bad_clips_are_refused_with_the_reason(tmp_path):
  (tmp_path / "text.wav").write_text("not audio")
  (tmp_path / "text.txt").write_text("not audio either\n" * 100)
  write(tmp_path / "silent.wav", np.zeros(2 * RATE, np.float32))
  write(tmp_path / "short.wav", tone(0.1))
  write(tmp_path / "empty.wav", tone(0.0))
  write(tmp_path / "long.wav", tone(12.0))
  cases = {
    "missing.wav": "does not exist", "": "is a directory", "text.wav": "is not audio",
    "text.txt": "is not audio", "silent.wav": "is silent", "short.wav": "0.10 s long; at least 1 s",
    "empty.wav": "no audio samples", "long.wav": "12 s long; the limit is 10 s",
  }  # fmt: skip
  for name, message in cases.items():
    with pytest.raises(UserError, match=message) as caught:
      audio_io.load_clip(tmp_path / name, max_seconds=10.0)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_with_what_is_missing(tmp_path):
  path = write(tmp_path / "x.flac", tone(4.0))
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(UserError, match=r"x.flac is damaged: only [12].\d s of the 4.0 s that its"):
    audio_io.load_clip(path)


def test_channels_that_cancel_are_told_to_the_user(tmp_path, capsys):
  import soundfile

  soundfile.write(tmp_path / "x.wav", np.stack([tone(2.0), -tone(2.0)], 1), RATE, "FLOAT")
  np.testing.assert_array_equal(audio_io.load(tmp_path / "x.wav"), tone(2.0))
  assert "x.wav: its channels cancel each other" in capsys.readouterr().err


def test_an_offset_alone_is_silence(tmp_path):
  path = write(tmp_path / "x.wav", np.full(2 * RATE, 0.5, np.float32))
  with pytest.raises(UserError, match="is silent"):
    audio_io.load_clip(path)


def test_a_long_file_is_refused_by_its_header(tmp_path, monkeypatch):
  path = write(tmp_path / "x.flac", tone(3.0))
  monkeypatch.setattr(audio_io, "_decode", lambda *a: pytest.fail("decoded"))
  with pytest.raises(UserError, match="limit is 2 s"):
    audio_io.load(path, max_seconds=2.0)


ABSURD = [
  ([np.nan], "not finite"),
  ([np.inf], "not finite"),
  ([-np.inf], "not finite"),
  ([1e30], "a sample of 1e\\+30 times full scale"),
  ([-1e30], "a sample of 1e\\+30 times full scale"),
  ([32768.0], "a sample of 3.28e\\+04 times full scale"),
  ([1e30, -1e30], "a sample of 1e\\+30 times full scale"),  # the mean of the channels is 0
  ([np.inf, -np.inf], "not finite"),
]


@pytest.mark.parametrize(("frame", "message"), ABSURD)
def test_absurd_samples_are_refused(tmp_path, frame, message):
  import soundfile

  x = np.stack([tone(1.0)] * len(frame), axis=1)
  x[7] = frame
  soundfile.write(tmp_path / "x.wav", x, RATE, "FLOAT")
  with pytest.raises(UserError, match=message) as caught:
    audio_io.load(tmp_path / "x.wav")
  assert "\n" not in str(caught.value)


def test_a_mix_over_full_scale_is_read(tmp_path):
  import soundfile

  soundfile.write(tmp_path / "x.wav", tone(1.0, level=4.0), RATE, "FLOAT")
  assert np.abs(audio_io.load(tmp_path / "x.wav")).max() == pytest.approx(4.0, abs=0.01)


def test_spectrogram_is_a_png_even_of_silence_and_odd_titles():
  for samples in (tone(1.0), np.zeros(RATE, np.float32)):
    png = audio_io.spectrogram_png(samples, title="$5 \\frac_{ 音楽")
    assert png.startswith(b"\x89PNG") and len(png) > 5000
