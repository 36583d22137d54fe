"""How well the VAE alone gives back music that no model trained on."""

from collections.abc import Callable, Iterable
import dataclasses
import itertools
from typing import Any

import ml_collections
import numpy as np

from melody_jax.encoders.codec import Codec
from melody_jax.encoders.windows import map_windows
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import datasets_of, whole_tracks
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.evaluation.musicnn import tagger as musicnn
from melody_jax.metrics.frechet import fit_gaussian, frechet_distance
from melody_jax.metrics.reconstruction import (
  BANDS,
  log_spectral_distance,
  log_spectral_distance_by_band,
  mel_distance,
  si_sdr,
  si_sdr_by_band,
  stft_distance,
)
from melody_jax.progress import Progress, print_progress

RoundTrip = Callable[[np.ndarray], Any]
Embed = Callable[[np.ndarray], np.ndarray]  # audio [samples] -> vectors [windows, dimensions]
# Scores of a track whose means stand in tables -> their titles.
SCORES = {
  "si_sdr": "SI-SDR (dB)",
  "log_spectral_distance": "LSD (dB)",
  "mel_distance": "mel distance (dB)",
  "stft_distance": "multi-resolution STFT",
}


def reconstruct(
  round_trip: RoundTrip, audio_S: np.ndarray, hop: int, chunk_frames: int, context_frames: int
) -> np.ndarray:
  """Encodes and decodes a track of any length in chunks of one shape.

  Each chunk is read with `context_frames` more on both sides, which are thrown away afterwards; see
  `encoders.windows.map_windows`.

  Args:
    round_trip: Maps audio [1, samples] to audio [1, samples]; samples is a multiple of `hop`.
    audio_S: Audio [samples] in [-1, 1].
    hop: Samples per latent frame.
    chunk_frames: Latent frames of a chunk that are kept.
    context_frames: Latent frames of context on each side of a chunk.

  Returns:
    Audio, float32 [samples].
  """
  length = chunk_frames + 2 * context_frames
  made = map_windows(lambda x, _: round_trip(x), audio_S, length, context_frames, hop, hop)
  return made[: len(audio_S)]


def track_scores(audio_S: np.ndarray, estimate_S: np.ndarray, sample_rate: int) -> dict[str, Any]:
  """All scores of one track: those of SCORES, and by band of `metrics.reconstruction.BANDS`.

  Args:
    audio_S: Original [samples].
    estimate_S: What the codec made of it [samples].
    sample_rate: Sample rate in Hz.
  """
  return {
    "si_sdr": si_sdr(audio_S, estimate_S),
    "log_spectral_distance": log_spectral_distance(audio_S, estimate_S),
    "mel_distance": mel_distance(audio_S, estimate_S, sample_rate),
    "stft_distance": stft_distance(audio_S, estimate_S),
    "log_spectral_distance_by_band": log_spectral_distance_by_band(
      audio_S, estimate_S, sample_rate
    ),
    "si_sdr_by_band": si_sdr_by_band(audio_S, estimate_S, sample_rate),
  }


def evaluate_codec(
  round_trip: RoundTrip,
  tracks_of: Iterable[tuple[dict[str, Any], np.ndarray]],
  hop: int,
  sample_rate: int,
  chunk_seconds: float = 20.0,
  context_seconds: float = 2.0,
  progress: Progress = print_progress,
  split: str = "test_other",
  embed: Embed | None = None,
) -> Finding:
  """Distances of whole tracks from what the codec makes of them, per package and over all.

  The round trip is what sampling does: the posterior mean, clipped to the range that the DPD may
  produce, then decoded. All tracks have equal weight in a mean.

  Args:
    round_trip: Encodes, clips and decodes: audio [1, samples] -> audio [1, samples].
    tracks_of: (record, audio float32 [samples]) of each track, see `clips.whole_tracks`.
    hop: Samples per latent frame.
    sample_rate: Sample rate in Hz.
    chunk_seconds: Seconds of audio that one pass keeps.
    context_seconds: Seconds of audio on each side of that, see `reconstruct`.
    progress: Function that gets one line per track.
    split: Name of the split that the tracks are of, for the text.
    embed: Embedding that Frechet distances are taken by; None does without.

  Returns:
    The finding "codec": scores per track, per package and over all.
  """
  # In whole frames: a chunk that began within one would be another encoding.
  frames = [max(1, round(s * sample_rate / hop)) for s in (chunk_seconds, context_seconds)]
  tracks = []
  vectors: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
  for record, audio_S in tracks_of:
    estimate_S = reconstruct(round_trip, audio_S, hop, *frames)
    last = {
      "package": record.get("package", "?"),
      "track": record.get("track", record["id"]),
      "seconds": len(audio_S) / sample_rate,
      **track_scores(audio_S, estimate_S, sample_rate),
    }
    tracks.append(last)
    if embed is not None:
      pair = (embed(audio_S), embed(estimate_S))
      vectors.setdefault(last["package"], []).append(pair)
    progress(
      f"codec: {last['track'].rsplit('/', 1)[-1]}: SI-SDR {last['si_sdr']:.2f} dB, "
      f"LSD {last['log_spectral_distance']:.2f} dB"
    )
  # By package as well: one mixing desk or one synthesiser may be all that fails.
  packages = {
    p: _summary([t for t in tracks if t["package"] == p])
    for p in sorted({t["package"] for t in tracks})
  }
  overall = _summary(tracks)
  values: dict[str, Any] = {"overall": overall, "packages": packages, "tracks": tracks}
  values["fad"] = frechet_distances(vectors) if vectors else None
  return Finding("codec", values, _markdown(values, split))


def frechet_distances(
  vectors: dict[str, list[tuple[np.ndarray, np.ndarray]]],
) -> dict[str, Any]:
  """FAD of what the codec made from the originals, beside that of packages from each other.

  Args:
    vectors: {package: (vectors of the original [W, D], of the reconstruction [W, D]) a track}.

  Returns:
    "reconstruction", over all tracks; "between_packages", the mean over pairs of packages, None for
    one; "share", the first over the second; "is_deficient", whether a set has too few windows for
    a covariance of full rank; "windows" of the originals and "dimensions".
  """

  def fit(packages: Iterable[str], which: int) -> Any:
    return fit_gaussian(np.concatenate([pair[which] for p in packages for pair in vectors[p]]))

  original, made = fit(vectors, 0), fit(vectors, 1)
  fits = [fit([p], 0) for p in vectors]
  pairs = [frechet_distance(a, b) for a, b in itertools.combinations(fits, 2)]
  distance = frechet_distance(made, original)
  between = float(np.mean(pairs)) if pairs else None
  return {
    "reconstruction": distance,
    "between_packages": between,
    "share": distance / between if between else None,
    "is_deficient": any(x.is_deficient for x in (original, *fits)),
    "windows": original.count,
    "dimensions": len(original.mean_D),
  }


def _markdown(values: dict[str, Any], split: str) -> str:
  overall = values["overall"]
  sets = [*values["packages"].items(), ("all", overall)]
  rows = [
    (name, s["tracks"], s["minutes"], *(s[key] for key in SCORES), s["si_sdr_worst"])
    for name, s in sets
  ]
  header = ("package", "tracks", "minutes", *SCORES.values(), "worst track SI-SDR (dB)")
  whose = "of packages that no model trained on" if split == "test_other" else f"of split {split}"
  bands = [
    (band, *(overall[f"{key}_by_band"].get(band) for key in ("log_spectral_distance", "si_sdr")))
    for band in BANDS
  ]
  parts = [
    f"Codec alone on whole tracks {whose}: "
    f"SI-SDR {number(overall['si_sdr'])} dB, "
    f"log-spectral distance {number(overall['log_spectral_distance'])} dB (means over tracks).",
    table(header, rows),
    table(("band, all packages", "LSD (dB)", "SI-SDR (dB)"), bands),
  ]
  if fad := values["fad"]:
    text = (
      f"FAD of the reconstruction from the original by musicnn: {number(fad['reconstruction'])}"
    )
    if fad["between_packages"] is not None:
      text += (
        f"; FAD(one package, another): {number(fad['between_packages'])}"
        f" ({100 * fad['share']:.0f} %)"
      )
    text += f"; {fad['windows']} windows of 3 s"
    if fad["is_deficient"]:
      text += f", in a package too few for {fad['dimensions']} dimensions, which raises its FAD"
    parts.append(f"{text}.")
  return "\n\n".join(parts)


def _summary(tracks: list[dict[str, Any]]) -> dict[str, Any]:
  # The worst track stands beside the mean: a codec that fails on one kind of music shows there.
  scores = np.array([t["si_sdr"] for t in tracks])
  found: dict[str, Any] = {
    "tracks": len(tracks),
    "minutes": sum(t["seconds"] for t in tracks) / 60.0,
    "si_sdr_median": float(np.median(scores)),
    "si_sdr_worst": float(scores.min()),
  }
  found |= {key: float(np.mean([t[key] for t in tracks])) for key in SCORES}
  for key in ("log_spectral_distance_by_band", "si_sdr_by_band"):
    bands = {band: [t[key][band] for t in tracks if band in t[key]] for band in BANDS}
    found[key] = {band: float(np.mean(values)) for band, values in bands.items() if values}
  return found


def _tracks_of(datasets: dict[str, Any]) -> Iterable[tuple[dict[str, Any], np.ndarray]]:
  """Whole tracks of all datasets; where there are several, packages bear their dataset's name."""
  for name, dataset in datasets.items():
    for record, audio_S in whole_tracks(dataset):
      if len(datasets) > 1:
        record = {**record, "package": f"{name}/{record.get('package', '?')}"}
      yield record, audio_S


def codec(config: ml_collections.ConfigDict) -> Finding:
  """Runs whole tracks that no model heard through the codec alone (`evaluate --config=...:codec`).

  Args:
    config: configs/evaluate.py: bundle, data, sample_rate and codec.

  Returns:
    The finding "codec", see `evaluate_codec`.

  Raises:
    UserError: if the bundle has no codec, or no dataset has audio in the split.
  """
  # Before any data is opened: a wrong bundle is the cheaper mistake to find.
  model = Codec.load(config.bundle)
  datasets = {
    name: dataset
    for name, dataset in datasets_of(config, config.codec.split).items()
    if "audio" in dataset.features
  }
  if not datasets:
    raise UserError(
      f"no dataset of config.data has audio in its split {config.codec.split!r}: name one that a"
      " builder wrote, not one that melody_jax.encode wrote"
    )
  if config.codec.split == "test_other" and "recorded" in datasets:
    datasets = {"recorded": datasets["recorded"]}  # the rendered one holds out styles, not packages
  embed, absent = _embedding(config) if config.codec.musicnn else (None, "")
  finding = evaluate_codec(
    lambda audio: model.decode(model.encode(audio)),
    _tracks_of(datasets),
    model.config.hop_length,
    config.sample_rate,
    config.codec.chunk_seconds,
    config.codec.context_seconds,
    print_progress,
    config.codec.split,
    embed,
  )
  if absent:
    finding = dataclasses.replace(finding, markdown=f"{finding.markdown}\n\n{absent}")
  return finding


def _embedding(config: ml_collections.ConfigDict) -> tuple[Embed | None, str]:
  """musicnn's layer before its tags, in windows of 3 s; or None, and a line that says why."""
  try:
    tagger = musicnn.load("MSD")
  except UserError as error:
    absent = f"FAD was not measured: {error}."
    print_progress(f"codec: {absent}")
    return None, absent

  def embed(audio_S: np.ndarray) -> np.ndarray:
    import librosa

    rates = {"orig_sr": config.sample_rate, "target_sr": musicnn.MUSICNN_SAMPLE_RATE}
    audio_S = librosa.resample(np.asarray(audio_S, np.float32), **rates, res_type="soxr_hq")
    return tagger.windows(audio_S, musicnn.PATCH_FRAMES)[1]

  return embed, ""
