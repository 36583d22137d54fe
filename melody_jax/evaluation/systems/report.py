"""A comparison as JSON values, Markdown, a CSV table and an HTML page."""

from collections.abc import Mapping
import csv
import io
import math
from typing import Any

import numpy as np

from melody_jax import audio_io, provenance
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.evaluation.systems import obedience, plots
from melody_jax.evaluation.systems.compare import Clips, Distance, clip_means
from melody_jax.evaluation.systems.measure import MeasuredClip, MeasuredSet
from melody_jax.evaluation.systems.page import Page, Player, render
from melody_jax.provenance import MARK

_PLAYER_SECONDS = 20.0
_PLAYER_RATE = 24_000
Row = tuple[str, float | None, float | None]
# Number of a clip -> its title. First come those that a histogram is drawn of.
TITLES = {
  "held_notes": "held notes a second",
  "frames_with_note": "share of frames with a note",
  "key_clarity": "key clarity",
  "beat_strength": "beat strength",
  "loudness": "loudness (LUFS)",
  "onset_rate": "onsets a second",
  "level_range_db": "range of levels (dB)",
  "clipped_share": "share of samples clipped",
  "peak": "peak",
  "is_silent": "share of clips silent",
  "is_constant": "share of clips that stand still",
  "first_held_notes": "held notes a second, denser posterior",
  "first_frames_with_note": "frames with a note, denser posterior",
}
_DRAWN = 5


def distance_values(d: Distance) -> dict[str, Any]:
  """One embedding's results as JSON can hold them."""
  line = d.infinity
  return {
    "fad": d.fad,
    "fad_infinity": None
    if line is None
    else {
      "limit": line.limit,
      "r_squared": line.r_squared,
      "clips": line.counts,
      "fad": line.values,
      "is_deficient": line.deficient,
    },
    "kad": d.kad,
    "is_deficient": d.is_deficient,
    "dimensions": d.dimensions,
    "windows": {"generated": d.generated_windows, "reference": d.reference_windows},
    "halves_of_the_reference": {"fad": d.halves_fad, "kad": d.halves_kad},
    "fad_by_clip": {
      "generated": d.generated_clip_fad.tolist(),
      "reference": d.reference_clip_fad.tolist(),
    },
  }


def _mean(found: Mapping[str, Any] | None) -> float | None:
  return found["mean"] if found else None


def score_rows(values: Mapping[str, Any]) -> list[Row]:
  """Rows (measure, of the generated clips, of the reference), in the order of a report."""
  rows: list[Row] = []
  for name, d in values["distances"].items():
    half = d["halves_of_the_reference"]
    flag = " (too few windows)" if d["is_deficient"] else ""
    rows.append((f"FAD, {name}{flag}", d["fad"], half["fad"]))
    line = d["fad_infinity"]
    if line:
      flag = " (too few windows)" if line["is_deficient"] else ""
      rows.append((f"FAD-infinity, {name}{flag}", line["limit"], None))
    rows.append((f"KAD, {name}", d["kad"], half["kad"]))
  if values["mcc"]:
    rows.append(("MCC (right: other prompts)", values["mcc"]["mcc"], values["mcc"]["mismatched"]))
  rows += obedience.rows(values["prompts"])
  ours, real = values["numbers"]["generated"], values["numbers"]["reference"]
  for key, title in TITLES.items():
    if key in ours:
      rows.append((title, _mean(ours[key]), _mean(real.get(key))))
  for name, spread in values["diversity"].items():
    rows.append((f"diversity, {name}", spread["generated"]["all"], spread["reference"]["all"]))
    if spread["generated"]["one_prompt"] is not None:
      rows.append((f"diversity over seeds, {name}", spread["generated"]["one_prompt"], None))
  for name, likeness in (values["memorisation"] or {}).items():
    pair = [likeness["generated"], likeness["reference"]]
    top = [max(x) if x else None for x in pair]
    rows.append((f"likeness to the nearest training clip, {name}: largest", top[0], top[1]))
    middle = [float(np.median(x)) if x else None for x in pair]
    rows.append((f"likeness to the nearest training clip, {name}: median", middle[0], middle[1]))
  for key, value in values["costs"].items():
    title = {"nfe": "network passes a clip", "real_time_factor": "real-time factor"}[key]
    rows.append((title, value, None))
  return rows


_EXPLAINED = (
  "FAD and KAD are distances from the reference, less is better; beside them stands the distance of"
  " one half of the reference from the other, which is what real music reaches with half as many"
  " clips. All other rows are means over clips."
)


def _markdown(values: Mapping[str, Any], folders: Mapping[str, str]) -> str:
  sets = values["sets"]
  told = ", ".join(f"{s['clips']} {title} clips" for title, s in sets.items())
  lines = [f"{told}. {_EXPLAINED}"]
  lines += ["Generated: `" + folders["generated"] + "`; reference: `" + folders["reference"] + "`."]
  rows = [
    (title, *("-" if v is None else number(float(v)) for v in pair))
    for title, *pair in score_rows(values)
  ]
  lines.append(table(("measure", "generated", "reference"), rows))
  if values["cautions"]:
    lines.append("\n".join(f"- {line}" for line in values["cautions"]))
  return "\n\n".join(lines)


def clip_rows(
  values: Mapping[str, Any], sets: Mapping[str, MeasuredSet], distances: Mapping[str, Distance]
) -> list[dict[str, Any]]:
  """One row a clip of both sets, {column: value}; None where a number is not defined."""
  rows = []
  cosines = (values["mcc"] or {}).get("by_clip", {})
  for title in ("generated", "reference"):
    for i, clip in enumerate(sets[title].clips):
      row: dict[str, Any] = {"set": title, "file": clip.name, "seconds": clip.seconds}
      row |= {"rate": clip.rate, "key": clip.key}
      row |= {k: v if math.isfinite(v) else None for k, v in clip.numbers.items()}
      for name, d in distances.items():
        by_clip = d.generated_clip_fad if title == "generated" else d.reference_clip_fad
        row[f"fad_{name}"] = float(by_clip[i])
      row["prompt_cosine"] = cosines.get(clip.name) if title == "generated" else None
      for name, likeness in (values["memorisation"] or {}).items():
        found = likeness[title]
        # Clips without a direction have no neighbour: then rows cannot be told apart.
        row[f"training_{name}"] = found[i] if len(found) == len(sets[title].clips) else None
      row["sha256"] = clip.sha256
      rows.append(row)
  return rows


def to_csv(rows: list[dict[str, Any]]) -> bytes:
  """The rows as a CSV file; its last column is the mark of this program."""
  buffer = io.StringIO()
  writer = csv.DictWriter(buffer, [*rows[0], "made_by"])
  writer.writeheader()
  for row in rows:
    writer.writerow(row | {"made_by": f"{MARK} {provenance.VERSION}"})
  return buffer.getvalue().encode()


def _evenly(clips: Clips, count: int) -> list[MeasuredClip]:
  """So many clips, evenly over a set in the order of names: neither the best nor the worst."""
  index = np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int)
  return [clips[i] for i in dict.fromkeys(index.tolist())]


def _player(clip: MeasuredClip, row: Mapping[str, Any]) -> Player:
  import librosa

  audio, rate, _ = audio_io.load_start(clip.path, _PLAYER_SECONDS)
  if rate != _PLAYER_RATE:
    audio = librosa.resample(audio, orig_sr=rate, target_sr=_PLAYER_RATE, res_type="soxr_hq")
  told = [
    f"{title} {number(float(row[key]))}"
    for key, title in list(TITLES.items())[:_DRAWN]
    if row.get(key) is not None
  ]
  fads = [f"FAD of the clip by {k[4:]} {number(v)}" for k, v in row.items() if k.startswith("fad_")]
  return Player(
    title=clip.name,
    text="; ".join([*told, *fads]),
    sound=audio_io.encode(audio, ".mp3", _PLAYER_RATE),
    picture=plots.spectrogram(audio, _PLAYER_RATE),
    seconds=len(audio) / _PLAYER_RATE,
  )


def _plots(
  values: Mapping[str, Any], sets: Mapping[str, MeasuredSet], distances: Mapping[str, Distance]
) -> list[tuple[str, bytes]]:
  ours, real = sets["generated"].clips, sets["reference"].clips
  drawn = [key for key in list(TITLES)[:_DRAWN] if key in ours[0].numbers]
  numbers = [
    {TITLES[key]: np.array([clip.numbers[key] for clip in clips]) for key in drawn}
    for clips in (ours, real)
  ]
  found = [("Clips of both sets; lines are means.", plots.distributions(*numbers))]
  fads = [
    {f"FAD of a clip, {name}": by(d) for name, d in distances.items()}
    for by in (lambda d: d.generated_clip_fad, lambda d: d.reference_clip_fad)
  ]
  found.append(("Every clip alone against the reference.", plots.distributions(*fads)))
  if any(d.infinity for d in distances.values()):
    caption = "FAD of subsets of the generated clips, drawn on to infinitely many."
    found.append((caption, plots.extrapolations(distances)))
  vectors = [(name, clip_means(name, ours), clip_means(name, real)) for name in distances]
  found.append(("Where the clips lie.", plots.maps(vectors)))
  if values["memorisation"]:
    likeness = [
      {f"likeness to training, {n}": np.array(m[t]) for n, m in values["memorisation"].items()}
      for t in ("generated", "reference")
    ]
    caption = "Likeness to the nearest training clip; copies lie right of all real music."
    found.append((caption, plots.distributions(*likeness)))
  return found


def finding(
  values: dict[str, Any],
  sets: Mapping[str, MeasuredSet],
  distances: Mapping[str, Distance],
  folders: Mapping[str, str],
  players: int,
) -> Finding:
  """All that is written of a comparison.

  Args:
    values: Results, as `audio` gathers them.
    sets: Measured clips by title: generated, reference, and training where it was given.
    distances: {embedding: how far the sets are apart}.
    folders: {title: directory}.
    players: Generated clips to be heard in the page; half as many of the reference.
  """
  rows = clip_rows(values, sets, distances)
  by_name = {(row["set"], row["file"]): row for row in rows}
  groups = []
  for title, count in (("generated", players), ("reference", -(-players // 2))):
    chosen = _evenly(sets[title].clips, count)
    heard = [_player(clip, by_name[title, clip.name]) for clip in chosen]
    head = f"{title.capitalize()}: {len(heard)} of {len(sets[title].clips)} clips"
    groups.append((head, heard))
  shown = [k for k in rows[0] if k not in ("sha256",)]
  versions = ", ".join(f"{k} {v}" for k, v in provenance.versions().items())
  page = Page(
    title="Generated audio against real music",
    lead=[
      f"Generated: {folders['generated']}. Reference: {folders['reference']}."
      + (f" Training: {folders['training']}." if "training" in folders else ""),
      _EXPLAINED,
    ],
    cautions=values["cautions"],
    scores=(("measure", "generated", "reference"), score_rows(values)),
    plots=_plots(values, sets, distances),
    players=groups,
    clips=(tuple(shown), [tuple(row[k] for k in shown) for row in rows]),
    details=[
      "SHA-256 of the files: "
      + "; ".join(f"{title} {s['sha256']}" for title, s in values["sets"].items()),
      f"Versions: {versions}. Measures: docs/evaluating.md.",
      f"Players hold at most the first {_PLAYER_SECONDS:g} s, as MP3 at {_PLAYER_RATE} Hz.",
    ],
  )
  return Finding(
    "audio",
    values | {"folders": dict(folders), "clips": rows},
    _markdown(values, folders),
    {".csv": to_csv(rows), ".html": render(page)},
  )
