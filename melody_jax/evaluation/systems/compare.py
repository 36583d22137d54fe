"""Two sets of measured clips compared: by embeddings, by their numbers, by likeness to training."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from melody_jax.evaluation.systems.measure import MeasuredClip
from melody_jax.metrics.chroma import nearest_by_chroma
from melody_jax.metrics.embeddings import (
  mean_pairwise_distance,
  mulan_cycle_consistency,
  nearest,
  unit_rows,
)
from melody_jax.metrics.frechet import (
  Extrapolation,
  fad_infinity,
  fit_gaussian,
  frechet_distance,
  per_clip_fad,
)
from melody_jax.metrics.kernel_distance import kernel_distance

Clips = Sequence[MeasuredClip]
_FEWEST_FOR_HALVES = 8  # clips of the reference


@dataclasses.dataclass(frozen=True)
class Distance:
  """How far the generated clips are from the reference by one embedding.

  Attributes:
    fad: Frechet distance.
    is_deficient: Whether either set has too few windows for a covariance of full rank.
    infinity: FAD drawn on to infinitely many clips; None for fewer than 8.
    kad: Kernel distance; None for fewer than two clips in a set, or a reference of one point.
    halves_fad: FAD of one half of the reference against the other, which says what a FAD of so few
      clips is worth; None for fewer than 8.
    halves_kad: The same of the kernel distance.
    generated_clip_fad: FAD of each generated clip [clips].
    reference_clip_fad: FAD of each reference clip [clips].
    dimensions: Length of a vector.
    generated_windows: Number of vectors of the generated clips.
    reference_windows: Number of vectors of the reference.
  """

  fad: float
  is_deficient: bool
  infinity: Extrapolation | None
  kad: float | None
  halves_fad: float | None
  halves_kad: float | None
  generated_clip_fad: np.ndarray
  reference_clip_fad: np.ndarray
  dimensions: int
  generated_windows: int
  reference_windows: int


def _fad(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
  return frechet_distance(fit_gaussian(np.concatenate(a)), fit_gaussian(np.concatenate(b)))


def _kad(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float | None:
  clips_a, clips_b = (np.repeat(np.arange(len(x)), [len(clip) for clip in x]) for x in (a, b))
  try:
    return kernel_distance(np.concatenate(a), np.concatenate(b), clips_a, clips_b)
  except ValueError:
    return None  # too few clips: said in the cautions


def distance(name: str, generated: Clips, reference: Clips, seed: int, draws: int) -> Distance:
  """Compares two sets by one embedding.

  Args:
    name: Name of the embedding.
    generated: Clips of the system.
    reference: Real music.
    seed: Seed of the subsets and halves.
    draws: Subsets of each size for FAD-infinity.
  """
  rng = np.random.default_rng(seed)
  ours = [clip.embeddings[name] for clip in generated]
  # By content: the halves must not depend on names.
  real = [clip.embeddings[name] for clip in sorted(reference, key=lambda clip: clip.sha256)]
  target = fit_gaussian(np.concatenate(real))
  found = fit_gaussian(np.concatenate(ours))
  halves_fad = halves_kad = None
  if len(real) >= _FEWEST_FOR_HALVES:
    order = rng.permutation(len(real))
    halves = [[real[i] for i in order[k::2]] for k in (0, 1)]
    halves_fad, halves_kad = _fad(*halves), _kad(*halves)
  return Distance(
    fad=frechet_distance(found, target),
    is_deficient=found.is_deficient or target.is_deficient,
    infinity=fad_infinity(ours, target, rng, draws=draws),
    kad=_kad(ours, real),
    halves_fad=halves_fad,
    halves_kad=halves_kad,
    generated_clip_fad=per_clip_fad(ours, target),
    reference_clip_fad=per_clip_fad([clip.embeddings[name] for clip in reference], target),
    dimensions=len(target.mean_D),
    generated_windows=found.count,
    reference_windows=target.count,
  )


def clip_means(name: str, clips: Clips) -> np.ndarray:
  """Mean of each clip's vectors, float64 [clips, dimensions]."""
  return np.stack([clip.embeddings[name].mean(axis=0, dtype=np.float64) for clip in clips])


def diversity(
  name: str, clips: Clips, centre_D: np.ndarray, prompts: Mapping[str, str] | None = None
) -> dict[str, float | None]:
  """Mean distance of pairs of clips, seen from the reference's mean; and of pairs of one prompt.

  Args:
    name: Name of the embedding.
    clips: Clips of one set.
    centre_D: Mean of the reference's vectors [dimensions]. Without it, what all music has in common
      would hide the differences.
    prompts: {name of a clip: its text}; None: not known.

  Returns:
    "all", 0 for copies of one clip, about 1 for clips as different as the reference's; and
    "one_prompt", the mean over prompts with several clips: diversity over seeds.
  """
  try:
    directions = unit_rows(clip_means(name, clips) - centre_D[None, :])
  except ValueError:  # a clip is the whole reference
    return {"all": None, "one_prompt": None}
  groups: dict[str, list[int]] = {}
  for i, clip in enumerate(clips):
    if prompts and clip.name in prompts:
      groups.setdefault(prompts[clip.name], []).append(i)
  several = [mean_pairwise_distance(directions[g]) for g in groups.values() if len(g) > 1]
  whole = mean_pairwise_distance(directions)
  return {
    "all": whole if math.isfinite(whole) else None,
    "one_prompt": float(np.mean(several)) if several else None,
  }


def summary(clips: Clips) -> dict[str, dict[str, float | int | None]]:
  """{number: mean, spread and quartiles over the clips that have it}."""
  found: dict[str, dict[str, float | int | None]] = {}
  for key in clips[0].numbers:
    values = np.array([clip.numbers[key] for clip in clips])
    values = values[np.isfinite(values)]
    if not len(values):
      found[key] = {"clips": 0, "mean": None, "std": None, "q25": None, "median": None, "q75": None}
      continue
    q25, median, q75 = (float(q) for q in np.percentile(values, (25, 50, 75)))
    found[key] = {
      "clips": len(values), "mean": float(values.mean()), "std": float(values.std()),
      "q25": q25, "median": median, "q75": q75,
    }  # fmt: skip
  return found


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """The nearest training clip of each clip of a set.

  Attributes:
    by: {"chroma" or name of an embedding: likeness of the nearest, [clips]}.
    files: {the same: name of the nearest training file of each clip}.
  """

  by: dict[str, np.ndarray]
  files: dict[str, list[str]]


def neighbours(clips: Clips, training: Clips, skip_same: bool) -> Neighbours:
  """Finds the nearest training clips by every embedding (cosine) and by chroma (correlation).

  Args:
    clips: Clips of one set.
    training: What the system was trained on.
    skip_same: Whether training clips of the very same contents are passed over: for the reference,
      whose likeness is what music that was not copied has.
  """
  by: dict[str, np.ndarray] = {}
  files: dict[str, list[str]] = {}
  for name in training[0].embeddings:
    known, asked = clip_means(name, training), clip_means(name, clips)
    # Of a single clip the mean is the clip itself: nothing would be left of it.
    centre = known.mean(axis=0) if len(training) > 2 else np.zeros(known.shape[1])
    likeness, found = [], []
    for clip, vector in zip(clips, asked, strict=True):
      others = [i for i, t in enumerate(training) if not (skip_same and t.sha256 == clip.sha256)]
      if not others:
        continue
      try:
        index, cosine = nearest((vector - centre)[None], known[others] - centre)
      except ValueError:  # a vector without a direction
        continue
      likeness.append(float(cosine[0]))
      found.append(training[others[int(index[0])]].name)
    by[name], files[name] = np.array(likeness), found
  pieces, likeness, found = [t.chroma_PxT for t in training], [], []
  for clip in clips:
    same = frozenset(i for i, t in enumerate(training) if skip_same and t.sha256 == clip.sha256)
    best = nearest_by_chroma(clip.chroma_PxT, pieces, same)
    if best:
      likeness.append(best[1])
      found.append(training[best[0]].name)
  by["chroma"], files["chroma"] = np.array(likeness), found
  return Neighbours(by, files)


def prompt_agreement(
  texts_NxC: np.ndarray, clips: Clips, prompts: Mapping[str, str], texts: Sequence[str]
) -> dict[str, Any] | None:
  """MCC of the clips whose prompt is known, and the cosine with the other prompts beside it.

  Args:
    texts_NxC: MuLan embeddings of the texts [N, C].
    clips: Generated clips, with MuLan's vectors.
    prompts: {name of a clip: its text}.
    texts: The N texts.

  Returns:
    "mcc", "mismatched" (None for a single text), "clips", and "by_clip": {name: cosine}; None where
    no clip has a prompt.
  """
  own = [clip for clip in clips if clip.name in prompts]
  if not own:
    return None
  music = clip_means("MuLan", own)
  which = np.array([texts.index(prompts[clip.name]) for clip in own])
  cosine = mulan_cycle_consistency(np.asarray(texts_NxC)[which], music)
  others = unit_rows(music) @ unit_rows(texts_NxC).T
  wrong = others[which[:, None] != np.arange(len(texts))[None, :]]
  return {
    "mcc": float(cosine.mean()),
    "mismatched": float(wrong.mean()) if len(wrong) else None,
    "clips": len(own),
    "by_clip": {clip.name: float(c) for clip, c in zip(own, cosine, strict=True)},
  }
