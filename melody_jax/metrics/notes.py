"""How much of a clip is notes: held notes, frames with a note, clarity of the key."""

import dataclasses

import numpy as np

LOWEST_MIDI = 21  # A0, the lowest of the 88 keys
KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
# Krumhansl & Kessler 1982: how well each step of the scale fits a major and a minor key.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@dataclasses.dataclass(frozen=True)
class NoteUse:
  """Measures of `note_use` on one clip.

  Attributes:
    held_notes_per_second: Notes that stay over the threshold long enough, a second of the clip.
    frames_with_note: Share of all frames that were given in which a pitch is over the threshold.
    frames_with_note_in_clip: The same among the frames of the clip itself.
    top_posterior: Mean over all frames of the largest posterior.
    key: Name of the key that fits best, "" where no pitch is over the threshold.
    key_clarity: Its correlation with the histogram of pitch classes; None where there is none.
  """

  held_notes_per_second: float
  frames_with_note: float
  frames_with_note_in_clip: float
  top_posterior: float
  key: str
  key_clarity: float | None


def held_notes(is_on_TxP: np.ndarray, fewest_frames: int) -> int:
  """Number of runs of at least so many frames without a gap, over all pitches.

  Args:
    is_on_TxP: Whether a pitch sounds in a frame, bool [frames, pitches].
    fewest_frames: Length of a run that counts.
  """
  padded = np.pad(np.asarray(is_on_TxP, np.int8), ((1, 1), (0, 0)))
  steps = np.diff(padded, axis=0).T
  # By pitch, then by time: beginnings and ends come in the same order.
  lengths = np.nonzero(steps == -1)[1] - np.nonzero(steps == 1)[1]
  return int(np.sum(lengths >= fewest_frames))


def key_clarity(weights_P: np.ndarray) -> tuple[str, float] | None:
  """The key that fits a histogram of the 88 keys of a piano best, and how well.

  Args:
    weights_P: Weight of each pitch from A0 up, at least 0 [pitches].

  Returns:
    (name, correlation of the histogram of pitch classes with the key's profile), or None for a
    histogram without differences.
  """
  classes = np.bincount((np.arange(len(weights_P)) + LOWEST_MIDI) % 12, weights_P, 12)
  if not np.ptp(classes) > 0:
    return None
  profiles = [np.roll(profile, k) for profile in (_MAJOR, _MINOR) for k in range(12)]
  fits = [float(np.corrcoef(classes, profile)[0, 1]) for profile in profiles]
  best = int(np.argmax(fits))
  return f"{KEYS[best % 12]} {'major' if best < 12 else 'minor'}", fits[best]


def note_use(
  posteriors_TxP: np.ndarray,
  seconds: float,
  frame_rate: float,
  threshold: float = 0.3,
  hold_seconds: float = 0.25,
) -> NoteUse:
  """Measures notes by the posteriors of a transcriber.

  At a hold of 0.12 s, noise in bands passes for notes; hence 0.25 s.

  Args:
    posteriors_TxP: Probability that a pitch sounds [frames, 88], from A0 up. Frames beyond the
      clip's end, which a transcriber of whole windows makes, may follow.
    seconds: Length of the clip.
    frame_rate: Frames a second.
    threshold: A pitch sounds where its posterior is over this.
    hold_seconds: Shortest note that counts as held.

  Raises:
    ValueError: if there is no frame.
  """
  posteriors = np.asarray(posteriors_TxP)
  if posteriors.ndim != 2 or not posteriors.size or not seconds > 0:
    raise ValueError(f"posteriors of shape {posteriors.shape} for {seconds} s: nothing to measure")
  is_on = np.asarray(posteriors > threshold)
  with_note = np.any(is_on, axis=1, keepdims=False)
  own = max(1, min(len(with_note), round(seconds * frame_rate)))
  found = key_clarity(np.where(is_on, posteriors, 0.0).sum(axis=0))
  return NoteUse(
    held_notes_per_second=held_notes(is_on, round(hold_seconds * frame_rate)) / seconds,
    frames_with_note=float(with_note.mean()),
    frames_with_note_in_clip=float(with_note[:own].mean()),
    top_posterior=float(posteriors.max(axis=1).mean()),
    key=found[0] if found else "",
    key_clarity=found[1] if found else None,
  )
