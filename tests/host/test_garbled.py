"""Bytes read in the wrong way are told from noise that somebody wanted, file by file."""

import sys

import numpy as np
import pytest
import soundfile

from melody_jax import cli
from melody_jax.host import decoding
from melody_jax.sample import sample

RATE = 44_100
SECONDS = 4


def chords(level: float = 0.5, channels: int = 2) -> np.ndarray:
  """Struck chords with a little noise, float [samples, channels]; the channels differ."""
  t = np.arange(SECONDS * RATE) / RATE
  struck = np.exp(-3 * np.mod(2 * t, 1))
  tones = sum(np.sin(2 * np.pi * hz * t + hz) for hz in (220, 277, 330, 1760))
  rng = np.random.default_rng(0)
  rows = [tones * struck / 4 + 0.003 * rng.normal(size=len(t)) for _ in range(channels)]
  return level * np.stack(rows, axis=1) / np.abs(rows).max()


def as_bytes(audio: np.ndarray, kind: str) -> bytes:
  """The samples as a file holds them; `kind` as numpy has it, with "i3" for 24 bits."""
  order, letter, width = kind[0], kind[1], int(kind[2])
  if letter == "f":
    return audio.astype(kind).tobytes()
  whole = np.round(audio * (2 ** (8 * width - 1) - 1)).astype(np.int64)
  if letter == "u":
    whole = whole + 2 ** (8 * width - 1)
  parts = whole.astype("<i8").ravel().view(np.uint8).reshape(-1, 8)[:, :width]
  return np.ascontiguousarray(parts[:, ::-1] if order == ">" else parts).tobytes()


def write(path, data: bytes, width: int, channels: int, order: str = "<"):
  """A file whose header says that the bytes are integers of this width."""
  parts = np.frombuffer(data, np.uint8)
  parts = parts[: len(parts) // (width * channels) * width * channels].reshape(-1, width)
  words = np.zeros((len(parts), 4), np.uint8)
  words[:, 4 - width :] = parts if order == "<" else parts[:, ::-1]
  integers = words.view("<i4")[:, 0].reshape(-1, channels)
  subtype = "PCM_U8" if width == 1 else f"PCM_{8 * width}"
  if width == 1:
    integers = integers ^ np.int32(-(2**31))
  soundfile.write(path, integers, RATE, subtype=subtype)
  return path


def fault(path) -> str:
  with pytest.raises(decoding.DamagedAudio) as error:
    decoding.read(path)
  assert error.value.reason == "garbled"
  return error.value.detail


@pytest.mark.parametrize("level", [0.9, 0.05])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
  ("name", "kind", "width", "skip", "said"),
  [
    ("x.wav", "<i3", 2, 0, "integers of 16 bits, as which it is noise; the same bytes are sound"),
    ("x.flac", "<i3", 2, 0, "as signed integers of 24 bits"),
    ("x.wav", "<i2", 3, 0, "integers of 24 bits, as which it is noise"),
    ("x.wav", "<i4", 2, 0, "as signed integers of 32 bits"),
    ("x.wav", "<f4", 2, 0, "as floating point of 32 bits"),
    ("x.wav", "<f4", 4, 0, "as floating point of 32 bits"),
    ("x.wav", ">i2", 2, 0, "as signed integers of that width with their bytes in another place"),
    ("x.flac", ">i2", 2, 0, "bytes in another place"),
    ("x.wav", ">i3", 3, 0, "bytes in another place"),
    ("x.wav", "<i2", 2, 1, "bytes in another place"),  # one byte lost before them
    ("x.wav", "<i3", 3, 1, "bytes in another place"),
    ("x.wav", "<u2", 2, 0, "as unsigned integers of that width"),
    ("x.wav", "<i2", 1, 0, "as signed integers of 16 bits"),
  ],
)
def test_a_header_that_says_something_else(
  tmp_path, name, kind, width, skip, said, channels, level
):
  data = as_bytes(chords(level, channels), kind)[skip:]
  assert said in fault(write(tmp_path / name, data, width, channels))


def test_an_aiff_of_the_other_byte_order(tmp_path):
  data = as_bytes(chords(), "<i2")
  assert "another place" in fault(write(tmp_path / "x.aiff", data, 2, 2, order=">"))


@pytest.mark.parametrize(("name", "width"), [("x.wav", 2), ("x.flac", 3), ("x.aiff", 2)])
@pytest.mark.parametrize("size", [20_000, 300_000])
def test_bytes_of_something_else_in_the_middle(tmp_path, name, width, size):
  data = bytearray(as_bytes(chords(), f"<i{width}"))
  at = len(data) // 2
  data[at : at + size] = np.random.default_rng(1).bytes(size)
  said = fault(write(tmp_path / name, bytes(data), width, 2))
  assert "random numbers at full scale" in said and "from 2.0 s on" in said


def test_a_byte_that_is_lost_in_the_middle(tmp_path):
  data = as_bytes(chords(), "<i2")
  data = data[: len(data) // 2] + data[len(data) // 2 + 1 :]
  assert "another place" in fault(write(tmp_path / "x.wav", data, 2, 2))


def noise(kind: str) -> np.ndarray:
  rng = np.random.default_rng(2)
  n, t = SECONDS * RATE, np.arange(SECONDS * RATE) / RATE
  white = rng.uniform(-1, 1, (n, 2))
  hit = np.exp(-6 * np.mod(2 * t, 1))[:, None]
  if kind == "cymbals":
    return 0.99 * np.diff(white, axis=0, prepend=0) * hit / 2
  if kind == "applause":
    claps = (rng.random((n, 2)) < 0.02) * rng.normal(size=(n, 2))
    decay = np.exp(-np.arange(200) / 40)
    heard = np.stack([np.convolve(c, decay)[:n] for c in claps.T], axis=1)
    return np.clip(3 * heard * rng.normal(size=(n, 2)), -1, 1)
  if kind == "full-scale bursts of white noise in music":
    return np.clip(chords(0.4) + 0.999 * white * (hit > 0.3), -1, 1)
  if kind == "a riser":
    return white * (t / t[-1])[:, None]
  if kind == "white noise under full scale":
    return 0.9 * white
  if kind == "normal noise, clipped":
    return np.clip(rng.normal(size=(n, 2)), -1, 1)
  if kind == "a noise wall":
    return np.tanh(5 * (chords(1.0) + white))
  if kind == "noise of a sound chip":
    return np.repeat(np.sign(rng.normal(size=(n, 1))), 2, axis=1)
  if kind == "square waves":
    wave = np.sign(np.sin(2 * np.pi * 220 * t)) * np.where(np.mod(t, 1) < 0.5, 1.0, 0.5)
    return np.stack([wave, wave], axis=1)
  if kind == "a saw":
    return np.stack([2 * np.mod(220 * t, 1) - 1] * 2, axis=1)
  if kind == "a distorted guitar":
    return np.sign(chords()) * np.minimum(1, 20 * np.abs(chords()))
  if kind == "the last bit":
    return rng.integers(-1, 2, (n, 2)) / 32768
  assert kind == "a loud song"
  return np.clip(8 * chords(1.0), -1, 1)


# What bytes of something else might sound like for a while: a remark is right, but no more.
DOUBTFUL = ("full-scale bursts of white noise in music", "a riser")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8", "FLOAT"])
@pytest.mark.parametrize(
  "kind",
  [
    "cymbals", "applause", "full-scale bursts of white noise in music", "a riser",
    "white noise under full scale", "normal noise, clipped", "a noise wall",
    "noise of a sound chip", "square waves", "a saw", "a distorted guitar", "the last bit",
    "a loud song",
  ],
)  # fmt: skip
def test_noise_that_somebody_wanted_is_good(tmp_path, kind, subtype):
  soundfile.write(tmp_path / "x.wav", noise(kind), RATE, subtype=subtype)
  notes = decoding.read(tmp_path / "x.wav").notes
  told = ("white noise at full scale: if that is not meant",) if kind in DOUBTFUL else ()
  assert all(any(part in note for part in told) for note in notes)


def test_white_noise_from_end_to_end_is_used_with_a_remark(tmp_path):
  white = np.random.default_rng(3).uniform(-1, 1, (2 * RATE, 1))
  soundfile.write(tmp_path / "x.wav", white, RATE)
  (note,) = decoding.read(tmp_path / "x.wav").notes
  assert note.startswith("all of it is white noise at full scale")


@pytest.mark.parametrize("key", ["music_prompt", "mode=continue --config.audio"])
def test_sampling_refuses_it_in_one_line(tmp_path, repository, monkeypatch, capsys, key):
  clip = write(tmp_path / "clip.wav", as_bytes(chords(), "<i3"), 2, 2)
  monkeypatch.chdir(repository)
  arguments = f"--config.{key}={clip} --config.out={tmp_path / 'x.wav'}".split()
  monkeypatch.setattr(sys, "argv", ["sample", "--config=configs/sample.py", *arguments])
  with pytest.raises(SystemExit) as end:
    cli.run(sample)
  lines = [s for s in capsys.readouterr().err.splitlines() if not s.startswith("[")]
  assert end.value.code == 2 and len(lines) == 1
  assert f"{clip} is garbled: its header states integers of 16 bits" in lines[0]
