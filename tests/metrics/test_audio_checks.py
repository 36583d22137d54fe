"""Faults that need no reference."""

import numpy as np
import pytest

from melody_jax.metrics.audio_checks import check_audio

RATE = 8_000
TIME = np.arange(4 * RATE) / RATE


def _melody() -> np.ndarray:
  frequency = np.repeat([220.0, 330.0, 262.0, 440.0, 196.0, 294.0, 392.0, 247.0], RATE // 2)
  return 0.3 * np.sin(2 * np.pi * np.cumsum(frequency) / RATE) * (0.3 + 0.7 * (1 - TIME * 2 % 1))


def test_music_passes():
  checks = check_audio(_melody(), RATE)
  assert checks.ok
  assert checks.peak <= 0.3 + 1e-9


@pytest.mark.parametrize("audio", [np.zeros(RATE * 2), 1e-4 * _melody()])
def test_silence(audio):
  checks = check_audio(audio, RATE)
  assert checks.silent and not checks.ok


def test_clipping_needs_runs_at_the_ceiling():
  assert check_audio(np.clip(_melody() * 20, -1, 1), RATE).clipped
  touching = _melody() / np.abs(_melody()).max()
  assert not check_audio(touching, RATE).clipped
  lone = _melody()
  lone[::100] = 1.0  # isolated peaks are not clipping
  assert not check_audio(lone, RATE).clipped


@pytest.mark.parametrize("audio", [np.full(RATE * 4, 0.2), 0.3 * np.sin(2 * np.pi * 440 * TIME)])
def test_constant(audio):
  checks = check_audio(audio, RATE)
  assert checks.constant and not checks.ok


def test_level_of_a_sine_is_minus_three_db_below_its_peak():
  checks = check_audio(np.sin(2 * np.pi * 100 * TIME), RATE)
  assert checks.rms_db == pytest.approx(-3.0103, abs=1e-3)


def test_not_a_number_is_a_fault():
  audio = _melody()
  audio[5] = np.nan
  checks = check_audio(audio, RATE)
  assert not checks.finite and not checks.ok


def test_shape_is_checked():
  with pytest.raises(ValueError, match="1-D"):
    check_audio(np.zeros((2, 5)), RATE)
