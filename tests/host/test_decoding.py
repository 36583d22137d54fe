"""Good files are good, damaged ones are damaged, and the machine's faults are no file's."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from melody_jax.errors import UserError
from melody_jax.host import decoding, ffmpeg

RATE = 8000
SECONDS = 20
needs_ffmpeg = pytest.mark.skipif(not ffmpeg.is_installed(), reason="needs ffmpeg")


def noise(seconds=SECONDS, level=0.05, seed=0):
  rng = np.random.default_rng(seed)
  return (level * rng.standard_normal(seconds * RATE)).astype(np.float32)


def encode(source, target, *options):
  command = ["ffmpeg", "-v", "error", "-i", str(source), *options, f"file:{target}"]
  subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
  return target


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Whole files of noise, one a format."""
  folder = tmp_path_factory.mktemp("files")
  for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "w64", "caf", "au", "rf64"):
    soundfile.write(folder / f"x.{suffix}", noise(), RATE, format=None)
  if ffmpeg.is_installed():
    encode(folder / "x.wav", folder / "x.m4a", "-movflags", "+faststart")
    encode(folder / "x.wav", folder / "x.mka", "-c:a", "libvorbis")
    encode(folder / "x.wav", folder / "guess.mp3", "-write_xing", "0")
    encode(folder / "x.wav", folder / "x.aac")
  return folder


STATED = ["x.wav", "x.flac", "x.ogg", "x.mp3", "x.aiff", "x.w64", "x.caf", "x.au", "x.rf64"]
BY_FFMPEG = ["x.m4a", "x.mka"]


def marked(names):
  return [*names, *(pytest.param(name, marks=needs_ffmpeg) for name in BY_FFMPEG)]


def reason(path):
  with pytest.raises(decoding.DamagedAudio) as error:
    decoding.read(path)
  return error.value.reason, error.value.detail


@pytest.mark.parametrize(
  "name", [*marked(STATED), *(pytest.param(n, marks=needs_ffmpeg) for n in ("guess.mp3", "x.aac"))]
)
def test_a_whole_file_is_good(files, name):
  sound = decoding.read(files / name)
  assert len(sound.audio) / sound.rate == pytest.approx(SECONDS, abs=0.3)
  assert sound.notes == ()


@pytest.mark.parametrize("name", marked(STATED))
def test_a_truncated_file_is_noticed(files, tmp_path, name):
  cut = tmp_path / name
  data = (files / name).read_bytes()
  cut.write_bytes(data[: len(data) * 6 // 10])
  why, detail = reason(cut)
  assert why == "truncated" and " s" in detail


@pytest.mark.parametrize("name", marked(["x.flac", "x.ogg", "x.mp3"]))
def test_garbage_inside_a_file_is_noticed(files, tmp_path, name, capfd):
  spoilt = tmp_path / name
  data = bytearray((files / name).read_bytes())
  third = len(data) // 3
  data[third : 2 * third] = np.random.default_rng(1).bytes(third)
  spoilt.write_bytes(data)
  assert reason(spoilt)[0] in ("truncated", "corrupt")
  assert capfd.readouterr().err == ""  # the decoders' own remarks are not for the user


@needs_ffmpeg
def test_an_mp3_of_changing_bit_rate_without_a_length_is_read_to_its_end(tmp_path):
  sound = np.concatenate([noise(level=1e-3), noise(level=0.1)])
  soundfile.write(tmp_path / "x.wav", sound, RATE)
  mp3 = encode(tmp_path / "x.wav", tmp_path / "x.mp3", "-q:a", "2", "-write_xing", "0")
  assert len(decoding.read(mp3).audio) / RATE == pytest.approx(2 * SECONDS, abs=0.3)
  assert decoding.seconds(mp3) is None  # a guess would refuse files that are short enough


@pytest.mark.parametrize("content", [b"", b"not audio at all\n" * 40, b"OggS" + bytes(range(256))])
@pytest.mark.parametrize("suffix", [".wav", ".mp3", pytest.param(".m4a", marks=needs_ffmpeg)])
def test_what_is_no_audio_is_corrupt(tmp_path, content, suffix):
  path = tmp_path / f"x{suffix}"
  path.write_bytes(content)
  if content and not ffmpeg.is_installed():
    pytest.skip("without ffmpeg nothing is known of it")
  assert reason(path)[0] == "corrupt"


@needs_ffmpeg
@pytest.mark.parametrize(
  "name", ["1:2 intro.m4a", "-x.m4a", "http:a.m4a", "concat:a|b.m4a", "pipe:0.m4a", "%03d.m4a", "-"]
)
def test_names_that_a_decoder_takes_for_more_than_names(files, tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  shutil.copy(files / "x.m4a", os.path.join(".", name))
  assert len(decoding.read(name).audio) / RATE == pytest.approx(SECONDS, abs=0.2)


def test_a_name_that_is_not_utf_8(files, tmp_path):
  name = os.fsdecode(b"caf\xe9.wav")
  shutil.copy(files / "x.wav", tmp_path / name)
  assert len(decoding.read(tmp_path / name).audio) == SECONDS * RATE


@pytest.mark.parametrize("suffix", [".wav", ".ogg", ".mp3"])
def test_channels_that_cancel_are_said_and_one_is_taken(tmp_path, suffix):
  path = tmp_path / f"x{suffix}"
  # A tone: Vorbis forgets the phase of noise.
  tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(5 * RATE) / RATE)
  soundfile.write(path, np.stack([0.9 * tone, -tone], 1), RATE)
  sound = decoding.read(path)
  assert "channels cancel" in sound.notes[0] and "channel 2" in sound.notes[0]
  assert np.std(sound.audio) == pytest.approx(np.std(tone), rel=0.1)


@pytest.mark.parametrize("right", [noise(seed=1), 0 * noise(), noise() * 0.8, noise(seed=1) * 0.1])
def test_ordinary_stereo_is_averaged(tmp_path, right):
  soundfile.write(tmp_path / "x.wav", np.stack([noise(), right], 1), RATE, "FLOAT")
  sound = decoding.read(tmp_path / "x.wav")
  assert sound.notes == ()
  np.testing.assert_allclose(sound.audio, (noise() + right) / 2, atol=2e-4)


def test_an_offset_is_taken_away(tmp_path):
  soundfile.write(tmp_path / "x.wav", noise() + 0.4, RATE, "FLOAT")
  assert abs(decoding.read(tmp_path / "x.wav").audio.mean()) < 1e-6


# The machine's faults.


def program(folder, name, script):
  folder.mkdir(exist_ok=True)
  (folder / name).write_text(f"#!/bin/sh\n{script}\n")
  (folder / name).chmod(0o755)


BROKEN = {
  "killed": "kill -9 $$",
  "fails": "echo 'Cannot allocate memory' >&2; exit 1",
  "says nothing": "exit 0",
  "odd status": "exit 137",
}


@needs_ffmpeg
@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("broken", ["ffmpeg", "ffprobe"])
def test_a_decoder_that_does_not_work_is_no_fault_of_the_file(
  files, tmp_path, monkeypatch, script, broken
):
  other = "ffprobe" if broken == "ffmpeg" else "ffmpeg"
  program(tmp_path / "bin", broken, script)
  program(tmp_path / "bin", other, f'exec {shutil.which(other)} "$@"')
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  with pytest.raises(UserError, match=f"{broken} (was killed|does not work)") as error:
    decoding.read(files / "x.m4a")
  assert "\n" not in str(error.value)


@needs_ffmpeg
def test_a_file_over_which_the_decoder_falls_is_the_files_fault(files, tmp_path, monkeypatch):
  # Falls over this file only, as a decoder with a fault of its own does.
  falls = f'case "$*" in *x.m4a*) kill -SEGV $$;; esac; exec {shutil.which("ffmpeg")} "$@"'
  program(tmp_path / "bin", "ffmpeg", falls)
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  assert reason(files / "x.m4a") == ("corrupt", "ffmpeg crashes on it (signal 11)")


@needs_ffmpeg
def test_no_ffmpeg_stops_with_a_line_and_only_where_it_is_needed(files, monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert len(decoding.read(files / "x.ogg").audio) == SECONDS * RATE
  assert "states no length" in decoding.read(files / "guess.mp3").notes[0]
  with pytest.raises(UserError, match="ffmpeg is not installed.*x.m4a"):
    decoding.read(files / "x.m4a")


@needs_ffmpeg
@pytest.mark.parametrize("tmpdir", ["/proc", "/nonexistent"])
def test_no_folder_of_temporary_files_is_needed(files, monkeypatch, tmpdir):
  monkeypatch.setattr("tempfile.tempdir", tmpdir)
  monkeypatch.setenv("TMPDIR", tmpdir)
  assert len(decoding.read(files / "x.m4a").audio) > 0


def test_a_file_that_the_system_does_not_hand_out(files, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="cannot be read: No such file"):
    decoding.read(tmp_path / "gone.wav")

  def broken_disk(*_, **__):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr("builtins.open", broken_disk)
  with pytest.raises(UserError, match="cannot be read: Input/output error"):
    decoding.read(files / "x.wav")


def test_short_memory_is_no_fault_of_the_file(files, monkeypatch):
  def no_memory(*_):
    raise MemoryError

  monkeypatch.setattr(decoding, "_mix", no_memory)
  with pytest.raises(UserError, match="not enough memory"):
    decoding.read(files / "x.wav")
