"""The musical teacher hears pitch classes and bands, at the right frames."""

import jax.numpy as jnp
import numpy as np

from melody_jax.models.musical_features import N_MELS, SIZE, musical_features

RATE, HOP = 24_000, 960


def tone(hz, seconds=2.0):
  t = np.arange(int(seconds * RATE)) / RATE
  return (0.2 * np.sin(2 * np.pi * hz * t)).astype(np.float32)[None]


def test_chroma_names_the_tone_in_every_octave():
  for hz, pitch_class in ((261.63, 0), (523.25, 0), (440.0, 9), (880.0, 9), (622.25, 3)):
    target = musical_features(tone(hz), RATE, HOP)
    assert target.shape == (1, 50, SIZE)
    chroma = np.asarray(target[0, 5:-5, N_MELS:])
    assert (chroma.argmax(axis=-1) == pitch_class).all()


def test_frames_are_where_the_sound_is():
  audio = np.concatenate([np.zeros((1, RATE), np.float32), tone(440.0, 1.0)], axis=1)
  loudest = np.asarray(musical_features(audio, RATE, HOP)[0, :, :N_MELS].max(axis=-1))
  assert (loudest[:23] < loudest[27:].min()).all()
  # Silence has no harmony.
  assert float(jnp.abs(musical_features(audio, RATE, HOP)[0, :20, N_MELS:]).max()) < 1e-2


def test_a_clip_alone_equals_the_clip_in_a_batch():
  both = musical_features(np.concatenate([tone(300.0), tone(900.0)]), RATE, HOP)
  np.testing.assert_allclose(both[1:], musical_features(tone(900.0), RATE, HOP), atol=1e-5)
