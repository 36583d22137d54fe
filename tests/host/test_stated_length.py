"""What headers say of lengths, byte by byte."""

import struct

import numpy as np
import pytest
import soundfile

from melody_jax.host import stated_length

HEADER = b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE"
FORMAT = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16_000, 2, 16)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_recorder_that_did_not_know_the_length_is_believed(tmp_path, size):
  path = tmp_path / "x.wav"
  path.write_bytes(HEADER + FORMAT + b"data" + struct.pack("<I", size) + bytes(400))
  assert stated_length.share_present(path) == 1


def test_chunks_before_the_samples_are_skipped(tmp_path):
  path = tmp_path / "x.wav"
  odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
  data = HEADER + FORMAT + odd + b"data" + struct.pack("<I", 1000)
  path.write_bytes(data + bytes(400))
  assert stated_length.share_present(path) == pytest.approx((len(data) + 400) / (len(data) + 1000))
  path.write_bytes(data + bytes(1000) + b"more chunks after the samples")
  assert stated_length.share_present(path) == 1


@pytest.mark.parametrize(
  "content", [b"", b"RIFF", HEADER, HEADER + FORMAT, b"OggS", b"caff" + bytes(30)]
)
def test_what_states_nothing_is_whole(tmp_path, content):
  (tmp_path / "x").write_bytes(content)
  assert stated_length.share_present(tmp_path / "x") == 1


def test_only_the_last_page_of_ogg_counts(tmp_path):
  path = tmp_path / "x.ogg"
  soundfile.write(path, np.random.default_rng(0).standard_normal(40_000) * 0.1, 8000)
  data = path.read_bytes()
  assert not stated_length.is_ogg_cut_off(path)
  path.write_bytes(data[:-1])
  assert stated_length.is_ogg_cut_off(path)
  path.write_bytes(data[: data.rfind(b"OggS")])
  assert stated_length.is_ogg_cut_off(path)
  path.write_bytes(b"fLaC" + data)
  assert not stated_length.is_ogg_cut_off(path)


def test_an_mp3_behind_tags_states_its_length(tmp_path):
  path = tmp_path / "x.mp3"
  tags = b"ID3\x04\0\0" + bytes([0, 0, 0x40, 0]) + bytes(0x40 << 7)
  path.write_bytes(tags + b"\xff\xfb\x90\0" + bytes(32) + b"Info" + bytes(100))
  assert stated_length.mp3_states_length(path)
  path.write_bytes(tags + b"\xff\xfb\x90\0" + bytes(5000) + b"Info")
  assert not stated_length.mp3_states_length(path)
