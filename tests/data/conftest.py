"""A folder of tiny sounds, good and bad."""

import numpy as np
import pytest
import soundfile


def tone(seconds, rate=8000, channels=1, seed=0):
  """A pulsing chord with a little noise, [samples] or [samples, channels]."""
  t = np.arange(int(seconds * rate)) / rate
  rng = np.random.default_rng(seed)
  sound = sum(np.sin(2 * np.pi * f * (1 + seed / 10) * t) for f in (220.0, 277.2, 329.6))
  sound = 0.1 * sound * (np.sin(4 * np.pi * t) > 0) + 0.001 * rng.standard_normal(len(t))
  return np.stack([sound] * channels, axis=1) if channels > 1 else sound


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
  """Good files in several formats, rates and channels; one of each kind that must be put aside."""
  folder = tmp_path_factory.mktemp("sounds")
  (folder / "album").mkdir()
  soundfile.write(folder / "a.wav", tone(11), 8000)
  soundfile.write(folder / "b.flac", tone(12, 44_100, 2, seed=1), 44_100)
  soundfile.write(folder / "album" / "c.ogg", tone(41, 22_050, seed=2), 22_050)
  soundfile.write(folder / "d.mp3", tone(13, 16_000, seed=3), 16_000)
  soundfile.write(folder / "bad_silent.wav", np.zeros(8000 * 12), 8000)
  soundfile.write(folder / "bad_short.wav", tone(2), 8000)
  soundfile.write(folder / "bad_nan.wav", np.full(8000 * 12, np.nan), 8000, subtype="FLOAT")
  (folder / "bad_broken.ogg").write_bytes(b"OggS" + bytes(range(256)) * 20)
  (folder / "bad_empty.mp3").write_bytes(b"")
  (folder / ".hidden.wav").write_bytes(b"")
  (folder / "notes.txt").write_text("not audio")
  (folder / "link.wav").symlink_to(folder / "a.wav")
  return folder
