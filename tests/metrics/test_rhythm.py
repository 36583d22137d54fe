"""Onsets and beat strength of a metronome, of noise, and of what has no beat."""

import numpy as np
import pytest

from melody_jax.metrics.rhythm import SAMPLE_RATE, beat_strength, onset_rate


def _clicks(bpm, seconds=10, jitter=0.0):
  rng = np.random.default_rng(0)
  audio = rng.normal(size=seconds * SAMPLE_RATE) * 1e-3
  for beat in range(int(seconds * bpm / 60)):
    at = int((beat * 60 / bpm + jitter * rng.normal()) * SAMPLE_RATE)
    if 0 <= at < len(audio) - 500:
      audio[at : at + 500] += rng.normal(size=500) * np.exp(-np.arange(500) / 100)
  return audio


def test_a_metronome_beats_noise_and_loose_clicks():
  strength, tempo = beat_strength(_clicks(120))
  # Half of 120 and its double are periods of the clicks too.
  assert strength > 0.7 and any(tempo == pytest.approx(t, rel=0.04) for t in (60, 120, 240))
  loose, _ = beat_strength(_clicks(120, jitter=0.1))
  noise, _ = beat_strength(np.random.default_rng(1).normal(size=10 * SAMPLE_RATE))
  assert loose < 0.6 * strength and noise < 0.4 * strength


def test_level_does_not_matter():
  audio = _clicks(90)
  assert beat_strength(audio)[0] == pytest.approx(beat_strength(audio / 10)[0], abs=0.02)


def test_what_has_no_beat():
  assert beat_strength(np.zeros(10 * SAMPLE_RATE)) is None
  assert beat_strength(_clicks(120, seconds=4)) is None


def test_onsets_are_counted():
  for bpm in (60, 180):
    assert onset_rate(_clicks(bpm)) == pytest.approx(bpm / 60, rel=0.15)
  assert onset_rate(np.zeros(SAMPLE_RATE)) == 0.0
