"""Kernels that the tokeniser's first layer begins with: quadrature filters of chosen pitches."""

import math

import numpy as np

QUARTER_TONES = 24  # filters an octave of the constant-Q front
LOWEST_HZ = 65.4  # C2; lower tones show in their harmonics


def gabor_kernel(n_filters: int, kernel_size: int, sample_rate: int) -> np.ndarray:
  """Windowed cosines, then sines, at mel-spaced centres: float32 [kernel, 1, 2 n_filters].

  Centres go from 40 Hz to 0.95 of the Nyquist frequency. A filter's Hann window is as long as
  its distance to its neighbours asks for, between a quarter of the kernel and all of it. A
  sine of amplitude 1 at the centre is answered with kernel_size / 4.
  """

  def mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)

  mels = np.linspace(mel(40.0), mel(0.475 * sample_rate), n_filters)
  hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
  # No longer than it takes to tell neighbours apart: short windows hear better when a tone begins.
  lengths = np.clip(1.5 * sample_rate / np.gradient(hz), kernel_size / 4, kernel_size)
  return _quadrature_pairs(hz, lengths, kernel_size, sample_rate)


def constant_q_kernel(n_filters: int, kernel_size: int, sample_rate: int) -> np.ndarray:
  """Windowed cosines, then sines, a quarter tone apart from C2: float32 [kernel, 1, 2 n_filters].

  A window is as long as it takes to tell semitones apart (its main lobe is two semitones wide),
  between a sixteenth of the kernel and all of it. Answers are scaled as in `gabor_kernel`.

  Raises:
    ValueError: The filters reach the Nyquist frequency.
  """
  hz = LOWEST_HZ * 2.0 ** (np.arange(n_filters) / QUARTER_TONES)
  if hz[-1] >= sample_rate / 2:
    raise ValueError(f"{n_filters} quarter tones reach {hz[-1]:.0f} Hz, over the Nyquist frequency")
  width_hz = hz * (2.0 ** (1 / 12) - 1.0)
  lengths = np.clip(2.0 * sample_rate / width_hz, kernel_size / 16, kernel_size)
  return _quadrature_pairs(hz, lengths, kernel_size, sample_rate)


def _quadrature_pairs(
  hz: np.ndarray, lengths: np.ndarray, kernel_size: int, sample_rate: int
) -> np.ndarray:
  offset = np.arange(kernel_size) - 0.5 * (kernel_size - 1)
  place = np.clip(offset[:, None] / lengths[None, :], -0.5, 0.5)
  # Higher where it is shorter: each filter answers a tone of its own pitch alike.
  window = (0.5 + 0.5 * np.cos(2.0 * np.pi * place)) * (kernel_size / lengths)[None, :]
  phase = 2.0 * np.pi * offset[:, None] / sample_rate * hz[None, :]
  pairs = np.concatenate([window * np.cos(phase), window * np.sin(phase)], axis=1)
  return pairs[:, None, :].astype(np.float32)
