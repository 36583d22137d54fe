"""What a way to sample costs and gives: clips of a bundle, measured as those of any system.

Prompts of known families are made with one seed, and compared with held-out music. Runs that differ
by how they sample share the loaded models, their compiled programs and the measured reference where
one process makes them all (`launch/sweep.sh`).
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import ml_collections
import numpy as np

from melody_jax import audio_io, bundle
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import batches, datasets_of, read_windows, stack_clips
from melody_jax.evaluation.embeddings import choice
from melody_jax.evaluation.finding import Finding, table
from melody_jax.evaluation.musicnn import tagger as musicnn
from melody_jax.evaluation.prompts import settings_of
from melody_jax.evaluation.systems import compare, obedience, report
from melody_jax.evaluation.systems.audio import load_notes
from melody_jax.evaluation.systems.measure import MeasuredClip, MeasuredSet, Measurer
from melody_jax.generation.melody import Melody
from melody_jax.generation.request import Request, Settings
from melody_jax.progress import print_progress

_REFERENCE_SEED = 0  # of the reference's choice: seeds of a sweep compare with the same music
# Scores that a clip has by itself; the table gives their means.
_CLIP_SCORES = ("held_notes", "frames_with_note", "beat_strength", "onset_rate", "is_silent")
_TITLES = {
  "fad": "FAD, musicnn-MSD",
  "kad": "KAD, musicnn-MSD",
  "mcc": "MCC",
  "mcc_of_other_prompts": "the same with the prompts of other clips",
  "right_family": "right family, musicnn-MTT",
  **{key: report.TITLES[key] for key in _CLIP_SCORES},
  "nfe": "network passes a clip",
  "audio_seconds_per_second": "seconds of audio a second",
}


@functools.lru_cache(maxsize=1)
def _melody(directory: str, digest: str) -> Melody:
  del digest  # part of the key: files may change under one name
  return Melody.load(directory)


@dataclasses.dataclass(frozen=True)
class _Judges:
  """What measures clips.

  Attributes:
    of_music: Measures of any clip.
    of_prompted: The same and the tagger's posteriors, for clips that were asked for something.
    mulan: The embedding that reads prompts.
    tags: Names of the tagger's tags.
  """

  of_music: Measurer
  of_prompted: Measurer
  mulan: Any
  tags: tuple[str, ...]


@functools.lru_cache(maxsize=1)
def _judges(directory: str, digest: str, notes: str) -> _Judges:
  del digest
  embeddings = choice.load("musicnn,mulan", directory)
  judge, _ = load_notes(notes)
  tagger = musicnn.load("MTT")
  music, prompted = (
    Measurer(embeddings, judge, None, np.inf, tagger=asked) for asked in (None, tagger)
  )
  return _Judges(music, prompted, embeddings[1], tagger.tags)


@functools.lru_cache(maxsize=4)
def _text_vectors(directory: str, digest: str, notes: str, texts: tuple[str, ...]) -> np.ndarray:
  """MuLan's vectors of prompts; the text tower takes longer to load than to run."""
  return _judges(directory, digest, notes).mulan.text(list(texts))


def _key(config: ml_collections.ConfigDict) -> tuple[str, str]:
  return config.bundle, bundle.digest(config.bundle)


_references: dict[Any, list[MeasuredClip]] = {}


def _reference(
  bundle_key: tuple[str, str], config: ml_collections.ConfigDict
) -> list[MeasuredClip]:
  """Held-out windows of config.data, measured once in a process."""
  c, notes = config.sampling, config.audio.notes
  key = (*bundle_key, config.data, config.split, c.reference_windows, c.seconds, notes)
  if key not in _references:
    measurer = _judges(*bundle_key, notes).of_music
    clips = []
    for name, dataset in datasets_of(config, config.split).items():
      if "audio" not in dataset.features:
        raise UserError(f"dataset {name} of config.data has no audio: name one of a builder")
      found = read_windows(dataset, c.seconds, ("audio",), c.reference_windows, _REFERENCE_SEED)
      print_progress(f"sampling: {len(found)} clips of {name} to compare with")
      for i, audio_S in enumerate(stack_clips(found, "audio")):
        clips.append(measurer.hear(audio_S, config.sample_rate, f"{name}-{i}"))
    _references[key] = clips
  return _references[key]


def _generate(
  melody: Melody, texts: Sequence[str], config: ml_collections.ConfigDict, settings: Settings
) -> tuple[list[np.ndarray], int, float]:
  """A clip of each text, network passes of one, and seconds of audio made a second.

  The last batch is filled up, so that one program serves all; what fills it is not counted.
  """
  clips: list[np.ndarray] = []
  seconds, nfe, size = 0.0, 0, min(config.batch_size, len(texts))
  for index, real in batches(len(texts), size):
    requests = [Request(texts[i], seconds=config.sampling.seconds, seed=config.seed) for i in index]
    made = melody.generate(requests, settings)
    clips += [audio_io.normalise_loudness(m.audio, melody.sample_rate) for m in made[:real]]
    nfe = made[0].nfe
    # The whole batch took that long, whatever of it is kept.
    seconds += made[0].generation_seconds / size * real
    print_progress(f"sampling: {len(clips)} of {len(texts)} clips")
  return clips, nfe, len(texts) * config.sampling.seconds / seconds


def sampling(config: ml_collections.ConfigDict) -> Finding:
  """Generates the prompts with one seed and scores them.

  Args:
    config: configs/evaluate.py: bundle, data, split, sample_rate, batch_size, seed, audio.notes and
      sampling.

  Returns:
    The finding "sampling": "scores" of the generated clips, "reference", those of real music, and
    "clips", a row of each clip.

  Raises:
    UserError: if the bundle lacks a model, or no dataset has audio in the split.
  """
  c = config.sampling
  texts = list(c.prompts)
  key = _key(config)  # once: it reads the whole bundle
  melody = _melody(*key)
  judges = _judges(*key, config.audio.notes)
  reference = _reference(key, config)
  audio, nfe, speed = _generate(melody, texts, config, settings_of(c.sampler))
  print_progress("sampling: measuring")
  measurer = judges.of_prompted
  clips = [measurer.hear(a, melody.sample_rate, f"{i:03d}") for i, a in enumerate(audio)]
  prompts = {clip.name: text for clip, text in zip(clips, texts, strict=True)}
  unique = sorted(set(texts))
  vectors = _text_vectors(*key, config.audio.notes, tuple(unique))
  agreement = compare.prompt_agreement(vectors, clips, prompts, unique) or {}
  obeyed = obedience.obedience(clips, prompts, judges.tags, config.seed) or {}
  name = next(n for n in clips[0].embeddings if n != "MuLan")
  distance = compare.distance(name, clips, reference, _REFERENCE_SEED, 1)
  family = obeyed.get("family") or {}
  scores = {
    "fad": distance.fad,
    "kad": distance.kad,
    "mcc": agreement.get("mcc"),
    "mcc_of_other_prompts": agreement.get("mismatched"),
    "right_family": family.get("right"),
    **_means(clips),
    "nfe": nfe,
    "audio_seconds_per_second": speed,
  }
  real = {"fad": distance.halves_fad, "kad": distance.halves_kad, **_means(reference)}
  real["right_family"] = family.get("chance")
  values = {
    "scores": scores,
    "reference": real,
    "is_deficient": distance.is_deficient,
    "windows": {"generated": distance.generated_windows, "reference": distance.reference_windows},
    "reference_clips": len(reference),
    "reference_sha256": MeasuredSet(tuple(reference), ()).sha256,
    "prompts": obeyed,
    "clips": [
      {"prompt": prompts[clip.name], "sha256": clip.sha256, **clip.numbers} for clip in clips
    ],
  }
  return Finding("sampling", values, _markdown(values))


def _means(clips: Sequence[MeasuredClip]) -> dict[str, float | None]:
  numbers = compare.summary(clips)
  # Without a judge of notes there are none to average.
  return {key: numbers[key]["mean"] if key in numbers else None for key in _CLIP_SCORES}


def _markdown(values: dict[str, Any]) -> str:
  scores, real = values["scores"], values["reference"]
  rows = [(title, scores.get(key), real.get(key)) for key, title in _TITLES.items()]
  text = (
    f"{len(values['clips'])} clips against {values['reference_clips']} of held-out music. Beside"
    " FAD and KAD stands one half of that music against the other, beside the right family what"
    " permuted prompts get."
  )
  if values["is_deficient"]:
    text += " There are too few windows for a covariance of full rank: the FAD is too large."
  return text + "\n\n" + table(("measure", "generated", "held-out music"), rows)
