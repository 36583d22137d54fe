"""Held notes, frames with a note and key clarity on posteriors whose notes are known."""

import numpy as np
import pytest

from melody_jax.metrics.notes import held_notes, key_clarity, note_use

RATE = 100.0


def _posteriors(notes, frames=1000):
  """Frames by 88 keys with (midi, start, end) sounding."""
  p = np.full((frames, 88), 0.1)
  for midi, start, end in notes:
    p[start:end, midi - 21] = 0.8
  return p


def test_only_notes_that_are_held_count():
  # 25 frames are held, 24 are not; a gap of a frame makes two notes, here too short ones.
  notes = [(60, 0, 25), (64, 50, 74), (67, 975, 1000), (72, 100, 120), (72, 121, 140)]
  use = note_use(_posteriors(notes), 10.0, RATE)
  assert use.held_notes_per_second == pytest.approx(0.2)
  assert use.frames_with_note == pytest.approx((25 + 24 + 25 + 20 + 19) / 1000)


def test_runs_equal_those_found_by_a_loop():
  is_on = np.random.default_rng(0).random((300, 88)) < 0.8
  for fewest in (1, 4, 9):
    runs = 0
    for column in is_on.T:
      length = 0
      for on in (*column, False):
        runs += not on and length >= fewest
        length = length + 1 if on else 0
    assert held_notes(is_on, fewest) == runs


def test_frames_behind_the_end_are_told_apart():
  p = _posteriors([(60, 0, 500)])
  use = note_use(p, 5.0, RATE)
  assert use.frames_with_note == 0.5 and use.frames_with_note_in_clip == 1.0
  assert use.top_posterior == pytest.approx(0.45)


def test_a_scale_has_a_key_and_all_keys_have_none():
  scale = [(60 + step, 50 * i, 50 * i + 50) for i, step in enumerate((0, 2, 4, 5, 7, 9, 11, 0, 7))]
  use = note_use(_posteriors(scale), 10.0, RATE)
  assert use.key == "C major" and use.key_clarity > 0.8
  weights = np.zeros(88)
  weights[[57 - 21, 60 - 21, 64 - 21]] = 3, 2, 2
  assert key_clarity(weights)[0] == "A minor"
  assert key_clarity(np.ones(96)) is None
  silent = note_use(_posteriors([]), 10.0, RATE)
  assert (silent.held_notes_per_second, silent.key, silent.key_clarity) == (0.0, "", None)


def test_nothing_is_refused():
  with pytest.raises(ValueError, match="nothing to measure"):
    note_use(np.zeros((0, 88)), 1.0, RATE)
