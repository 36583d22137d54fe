"""Small clips of chords and noise, and an embedding that needs no weights."""

import numpy as np
import soundfile

RATE = 24_000


class Bands:
  """Levels of 12 bands of half-second windows: an `AudioEmbedding` by arithmetic alone."""

  name, sample_rate, digest = "bands", 16_000, "0" * 64

  def __init__(self):
    self.calls = 0

  def __call__(self, audio_S):
    self.calls += 1
    n = max(1, len(audio_S) // 8000)
    power = np.square(np.abs(np.fft.rfft(np.resize(audio_S, (n, 8000)), axis=-1)))
    edges = np.unique(np.geomspace(20, 4000, 13).astype(int))[:12]
    return np.log10(np.add.reduceat(power, edges, axis=-1) + 1e-6).astype(np.float32)


def song(seed, seconds=3.0, rate=RATE, noise=0.0):
  """Chords of three tones, a new one every half second."""
  rng = np.random.default_rng(seed)
  time = np.arange(int(0.5 * rate)) / rate
  chords = []
  for _ in range(int(np.ceil(2 * seconds))):
    midi = 48 + rng.integers(0, 12) + np.array([0, 4, 7])
    tones = [np.sin(2 * np.pi * 440 * 2 ** ((m - 69) / 12) * time) for m in midi]
    chords.append(np.sum(tones, axis=0) * np.exp(-3 * time))
  audio = 0.1 * np.concatenate(chords)[: int(seconds * rate)]
  return audio + noise * np.random.default_rng(seed + 1000).normal(size=len(audio))


def write(folder, count, first=0, **options):
  """Writes so many songs into a new folder and returns it."""
  folder.mkdir(parents=True, exist_ok=True)
  for i in range(first, first + count):
    rate = options.get("rate", RATE)
    soundfile.write(folder / f"{i:02d}.wav", song(i, **options), rate, subtype="FLOAT")
  return folder
