"""How good is the audio of a system? Files of one directory against real music of another.

It measures every clip alone (`measure`), compares the sets (`compare`), says what is odd
(`cautions`), and tells it all in JSON, Markdown, CSV and one HTML page (`report`).
"""

import pathlib
from typing import Any

import ml_collections

from melody_jax.errors import UserError, check_choice
from melody_jax.evaluation import basic_pitch
from melody_jax.evaluation.embeddings import choice
from melody_jax.evaluation.embeddings.mulan import MulanEmbedding
from melody_jax.evaluation.finding import Finding
from melody_jax.evaluation.systems import compare, report
from melody_jax.evaluation.systems.cautions import cautions
from melody_jax.evaluation.systems.folder import audio_files, prompts_of, report_of
from melody_jax.evaluation.systems.measure import MeasuredSet, Measurer, measure_all
from melody_jax.evaluation.systems.obedience import load_tagger, obedience
from melody_jax.places import buckets
from melody_jax.progress import print_progress

LEVELS = ("same", "as_is")


def load_notes(path: str) -> tuple[basic_pitch.NoteModel | None, str]:
  """Loads the judge of notes.

  Args:
    path: config.audio.notes.

  Returns:
    The judge, or None and a line that says why not: the rest can do without it.

  Raises:
    UserError: if the file that is named is missing or damaged.
  """
  if path == "none":
    return None, "Notes were not measured (config.audio.notes=none)."
  try:
    return basic_pitch.NoteModel(path), ""
  except UserError as error:
    if path:
      raise
    print_progress(f"audio: {error}")
    return None, f"Notes were not measured: {error}."


def _costs(clips: compare.Clips) -> dict[str, float]:
  """Means of what the reports beside the clips say of their making."""
  reports = [report_of(clip.path) for clip in clips]
  found = {}
  for key in ("nfe", "real_time_factor"):
    values = [r[key] for r in reports if isinstance(r.get(key), int | float)]
    if values:
      found[key] = sum(values) / len(values)
  return found


def _likeness(
  generated: compare.Clips, reference: compare.Clips, training: compare.Clips
) -> dict[str, Any]:
  """Nearest training clips of both sets; the reference shows what likeness is usual."""
  ours = compare.neighbours(generated, training, skip_same=False)
  real = compare.neighbours(reference, training, skip_same=True)
  return {
    name: {
      "generated": ours.by[name].tolist(),
      "reference": real.by[name].tolist(),
      "nearest": ours.files[name],
      "nearer_than_any_reference": int((ours.by[name] > real.by[name].max()).sum())
      if len(real.by[name])
      else None,
    }
    for name in ours.by
  }


def _values(
  sets: dict[str, MeasuredSet],
  distances: dict[str, compare.Distance],
  prompts: dict[str, str],
  agreement: dict[str, Any] | None,
  obeyed: dict[str, Any] | None,
) -> dict[str, Any]:
  """All results but the players, as JSON can hold them."""
  generated, reference = sets["generated"].clips, sets["reference"].clips
  training = sets["training"].clips if "training" in sets else ()
  spread = {}
  for name in distances:
    centre = compare.clip_means(name, reference).mean(axis=0)
    spread[name] = {
      "generated": compare.diversity(name, generated, centre, prompts),
      "reference": compare.diversity(name, reference, centre),
    }
  return {
    "sets": {
      title: {"clips": len(s.clips), "left_out": s.left_out, "sha256": s.sha256}
      for title, s in sets.items()
    },
    "distances": {name: report.distance_values(d) for name, d in distances.items()},
    "numbers": {title: compare.summary(sets[title].clips) for title in ("generated", "reference")},
    "diversity": spread,
    "mcc": agreement,
    "prompts": obeyed,
    "memorisation": _likeness(generated, reference, training) if training else None,
    "costs": _costs(generated),
  }


def _agreement(
  embeddings: list, clips: compare.Clips, prompts: dict[str, str]
) -> tuple[dict[str, Any] | None, str]:
  """MCC where MuLan is asked for and prompts are known; else None, and why where that is odd."""
  mulan = next((e for e in embeddings if isinstance(e, MulanEmbedding)), None)
  if mulan is None or not prompts:
    return None, ""
  texts = sorted(set(prompts.values()))
  try:
    vectors = mulan.text(texts)
  except UserError as error:
    return None, f"MCC was not measured: {error}."
  return compare.prompt_agreement(vectors, clips, prompts, texts), ""


def audio(config: ml_collections.ConfigDict) -> Finding:
  """Measures the audio of a system.

  Args:
    config: configs/evaluate.py: generated, reference, training, bundle, out, seed and audio.

  Returns:
    The finding "audio", with its CSV table and its page.

  Raises:
    UserError: if a directory is missing or holds no audio that can be read, or a model is missing.
  """
  c = config.audio
  check_choice("config.audio.level", c.level, LEVELS)
  files = {}
  for title in ("generated", "reference", "training"):
    if title != "training" or config.training:  # the one that may be left out
      files[title] = audio_files(config[title], f"config.{title}")
  prompts_by_path = prompts_of(files["generated"], c.prompts)
  judge, no_notes = load_notes(c.notes)
  tagger, no_tags = load_tagger(c.tags, prompts_by_path)
  embeddings = choice.load(c.embeddings, config.bundle)
  kept = buckets.path_of(config.out) / "measured"
  sets = {}
  for title, paths in files.items():
    # Of training clips only likeness is asked, which needs no notes.
    notes = None if title == "training" else judge
    # Only of generated clips it is known what was asked for.
    tags = tagger if title == "generated" else None
    measurer = Measurer(embeddings, notes, kept, c.max_seconds, c.level == "as_is", tags)
    sets[title] = measure_all(paths, pathlib.Path(config[title]), measurer, title, print_progress)
  generated, reference = sets["generated"].clips, sets["reference"].clips
  print_progress("audio: comparing")
  distances = {
    e.name: compare.distance(e.name, generated, reference, config.seed, c.draws) for e in embeddings
  }
  prompts = {
    clip.name: prompts_by_path[clip.path] for clip in generated if clip.path in prompts_by_path
  }
  agreement, no_mcc = _agreement(embeddings, generated, prompts)
  obeyed = obedience(generated, prompts, tagger.tags if tagger else (), config.seed)
  values = _values(sets, distances, prompts, agreement, obeyed)
  told = cautions(
    sets["generated"], sets["reference"], sets.get("training"), distances, c.max_seconds
  )
  values["cautions"] = told + [line for line in (no_notes, no_tags, no_mcc) if line]
  for line in values["cautions"]:
    print_progress(f"audio: note: {line}")
  folders = {title: config[title] for title in files}
  return report.finding(values, sets, distances, folders, c.players)
