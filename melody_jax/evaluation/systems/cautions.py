"""What a reader of a comparison must know before its numbers: odd inputs, few clips, copies."""

from collections import Counter
from collections.abc import Mapping

from melody_jax.evaluation.systems.compare import Clips, Distance
from melody_jax.evaluation.systems.measure import MeasuredSet

_NAMES = 3  # files that a line names


def _some(names: list[str]) -> str:
  more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
  return ", ".join(names[:_NAMES]) + more


def _of_one_set(title: str, found: MeasuredSet, max_seconds: float) -> list[str]:
  clips, lines = found.clips, []
  if found.left_out:
    lines.append(
      f"{len(found.left_out)} of {len(clips) + len(found.left_out)} {title} files are left out: "
      + "; ".join(found.left_out[:_NAMES])
      + (" ..." if len(found.left_out) > _NAMES else "")
    )
  if len(clips) == 1:
    lines.append(f"There is one {title} clip: it has no spread, and no kernel distance.")
  rates = Counter(clip.rate for clip in clips)
  if len(rates) > 1:
    told = ", ".join(f"{n} of {rate} Hz" for rate, n in sorted(rates.items()))
    lines.append(f"The {title} clips have several sample rates ({told}); all were resampled.")
  silent = [clip.name for clip in clips if clip.numbers["is_silent"]]
  if silent:
    lines.append(f"{len(silent)} {title} clips are silent: {_some(silent)}.")
  cut = [clip.name for clip in clips if clip.is_cut]
  if cut:
    lines.append(
      f"Of {len(cut)} {title} files only the first {max_seconds:g} s were measured"
      f" (config.audio.max_seconds): {_some(cut)}."
    )
  repeated = [n for n in Counter(clip.sha256 for clip in clips).values() if n > 1]
  if repeated:
    lines.append(
      f"{sum(repeated)} {title} files are copies of each other ({len(repeated)} pieces)."
    )
  return lines


def _same(a: Clips, b: Clips) -> list[str]:
  known = {clip.sha256 for clip in b}
  return [clip.name for clip in a if clip.sha256 in known]


def _of_both(generated: Clips, reference: Clips) -> list[str]:
  lines = []
  same = _same(generated, reference)
  if len(same) == len(generated) and len(generated) == len(reference):
    lines.append("The reference is the generated set itself: distances of 0 say nothing.")
  elif same:
    lines.append(f"{len(same)} generated clips are files of the reference too: {_some(same)}.")
  if len(generated) != len(reference):
    lines.append(
      f"The sets differ in size ({len(generated)} generated, {len(reference)} reference): a FAD"
      " grows with fewer clips, so compare systems by equally many; KAD does not."
    )
  seconds = [sum(clip.seconds for clip in clips) / len(clips) for clips in (generated, reference)]
  if max(seconds) > 1.5 * min(seconds):
    lines.append(
      f"Clips differ in length ({seconds[0]:.1f} s generated, {seconds[1]:.1f} s reference on"
      " average): measures that grow with length, such as key clarity, do not compare."
    )
  return lines


def cautions(
  generated: MeasuredSet,
  reference: MeasuredSet,
  training: MeasuredSet | None,
  distances: Mapping[str, Distance],
  max_seconds: float,
) -> list[str]:
  """The lines, most of them about inputs; none for two sets of many unlike clips.

  Args:
    generated: Clips of the system.
    reference: Real music.
    training: What the system was trained on, or None.
    distances: {embedding: how far the sets are apart}.
    max_seconds: How much of a file was read.
  """
  lines = _of_one_set("generated", generated, max_seconds)
  lines += _of_one_set("reference", reference, max_seconds)
  lines += _of_both(generated.clips, reference.clips)
  for name, found in distances.items():
    if found.is_deficient:
      fewest = min(found.generated_windows, found.reference_windows)
      lines.append(
        f"{name}: {fewest} windows for {found.dimensions} dimensions. The covariance is not of full"
        " rank: FAD is too large by an unknown amount, FAD-infinity is not to be trusted; read KAD."
      )
  if training:
    lines += _of_one_set("training", training, max_seconds)
    if same := _same(generated.clips, training.clips):
      lines.append(f"{len(same)} generated clips are training files: {_some(same)}.")
    if same := _same(reference.clips, training.clips):
      lines.append(f"{len(same)} reference clips are training files: {_some(same)}.")
  return lines
