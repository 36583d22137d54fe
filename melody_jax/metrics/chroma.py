"""Likeness of two pieces by their harmony over time: cross-correlation of chroma."""

import numpy as np

SAMPLE_RATE = 22_050  # Hz of the audio that `chroma` takes
_HOP = 4096  # 5.4 frames a second: shorter than most chords
_LEAST_OVERLAP = 0.5  # share of the shorter piece that must lie beside the other


def chroma(audio_S: np.ndarray) -> np.ndarray:
  """Energy of the twelve pitch classes over time, each frame's largest at 1.

  Args:
    audio_S: Mono audio [samples] at 22,050 Hz.

  Returns:
    float32 [12, frames], 5.4 frames a second.
  """
  import librosa

  # A fixed tuning: copies are in tune with each other, and its estimate costs more than the rest.
  return librosa.feature.chroma_stft(
    y=np.asarray(audio_S, np.float32), sr=SAMPLE_RATE, n_fft=_HOP, hop_length=_HOP, tuning=0.0
  ).astype(np.float32)


def chroma_correlation(query_PxT: np.ndarray, others_NxPxU: np.ndarray) -> np.ndarray:
  """Largest correlation of the chroma of a piece with that of each of N others, over all shifts.

      r(l) = sum_{p,t} q(p, t) o(p, t + l) / sqrt(sum q^2 sum o^2), sums over what overlaps

  Each pitch class first loses its mean over the overlap: pieces in one key are alike without being
  copies. Shifts leave at least half of the shorter piece beside the other.

  Args:
    query_PxT: Chroma of the piece [12, T].
    others_NxPxU: Chroma of the others, all of one length [N, 12, U].

  Returns:
    float64 [N], in [-1, 1]; 1 for an excerpt of the other, 0 where one of them stands still.
  """
  from scipy.signal import fftconvolve

  q = np.asarray(query_PxT, np.float64)
  o = np.asarray(others_NxPxU, np.float64)
  length, other_length = q.shape[-1], o.shape[-1]
  shifts = np.arange(1 - length, other_length)
  first, last = np.maximum(0, -shifts), np.minimum(length, other_length - shifts)
  beside = last - first >= max(1, _LEAST_OVERLAP * min(length, other_length))
  shifts, first, last = shifts[beside], first[beside], last[beside]

  def sums(x: np.ndarray, start_L: np.ndarray, end_L: np.ndarray) -> np.ndarray:
    """Sums of x [..., T] from start to end: [..., L]."""
    steps = np.concatenate([np.zeros((*x.shape[:-1], 1)), x.cumsum(axis=-1)], axis=-1)
    return steps[..., end_L] - steps[..., start_L]

  count_L = (last - first).astype(np.float64)
  q_sums, o_sums = sums(q, first, last), sums(o, first + shifts, last + shifts)
  q_energy = sums(np.square(q).sum(axis=0), first, last) - np.square(q_sums).sum(axis=0) / count_L
  o_energy = sums(np.square(o).sum(axis=1), first + shifts, last + shifts)
  o_energy = o_energy - np.square(o_sums).sum(axis=1) / count_L[None, :]
  # Entry l + T - 1 of the convolution holds shift l.
  products = fftconvolve(o, q[None, :, ::-1], axes=-1).sum(axis=1)[:, shifts + length - 1]
  products = products - (q_sums[None] * o_sums).sum(axis=1) / count_L[None, :]
  energies = q_energy[None, :] * o_energy
  # Chroma lies in [0, 1]; below this a piece stands still, and what is left is rounding.
  moves = energies > 1e-8
  r = np.where(moves, products / np.sqrt(np.where(moves, energies, 1.0)), 0.0)
  return np.clip(r.max(axis=1), -1.0, 1.0)


def nearest_by_chroma(
  query_PxT: np.ndarray, others: list[np.ndarray], skip: frozenset[int] = frozenset()
) -> tuple[int, float] | None:
  """The piece whose chroma correlates most with that of the query.

  Args:
    query_PxT: Chroma of the piece [12, T].
    others: Chroma of the others [12, frames].
    skip: Indices that are passed over.

  Returns:
    (its index, the correlation), or None where there is no other.
  """
  lengths: dict[int, list[int]] = {}
  for i, other in enumerate(others):
    if i not in skip:
      lengths.setdefault(other.shape[1], []).append(i)
  best: tuple[int, float] | None = None
  # Those of one length at once.
  for members in lengths.values():
    found = chroma_correlation(query_PxT, np.stack([others[i] for i in members]))
    top = int(found.argmax())
    if best is None or found[top] > best[1]:
      best = members[top], float(found[top])
  return best
