"""How well the VAE alone gives back music that no model trained on."""

from collections.abc import Callable, Iterable
from typing import Any

import ml_collections
import numpy as np

from melody_jax.encoders.codec import Codec
from melody_jax.encoders.windows import map_windows
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import datasets_of, whole_tracks
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.metrics.reconstruction import log_spectral_distance, si_sdr
from melody_jax.progress import Progress, print_progress

RoundTrip = Callable[[np.ndarray], Any]


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


def evaluate_codec(
  round_trip: RoundTrip,
  tracks_of: Iterable[tuple[dict[str, Any], np.ndarray]],
  hop: int,
  sample_rate: int,
  chunk_seconds: float = 20.0,
  context_seconds: float = 2.0,
  progress: Progress = print_progress,
  split: str = "test_other",
) -> Finding:
  """SI-SDR and log-spectral distance of whole tracks, per package and over all.

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

  Returns:
    The finding "codec": scores per track, per package and over all.
  """
  # In whole frames: a chunk that began within one would be another encoding.
  frames = [max(1, round(s * sample_rate / hop)) for s in (chunk_seconds, context_seconds)]
  tracks = []
  for record, audio_S in tracks_of:
    estimate_S = reconstruct(round_trip, audio_S, hop, *frames)
    tracks.append(
      {
        "package": record.get("package", "?"),
        "track": record.get("track", record["id"]),
        "seconds": len(audio_S) / sample_rate,
        "si_sdr": si_sdr(audio_S, estimate_S),
        "log_spectral_distance": log_spectral_distance(audio_S, estimate_S),
      }
    )
    last = tracks[-1]
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
  values = {"overall": overall, "packages": packages, "tracks": tracks}
  return Finding("codec", values, _markdown(packages, overall, split))


def _markdown(packages: dict[str, dict[str, Any]], overall: dict[str, Any], split: str) -> str:
  rows = [
    (name, s["tracks"], s["minutes"], s["si_sdr"], s["log_spectral_distance"], s["si_sdr_worst"])
    for name, s in [*packages.items(), ("all", overall)]
  ]
  header = ("package", "tracks", "minutes", "SI-SDR (dB)", "LSD (dB)", "worst track SI-SDR (dB)")
  whose = "of packages that no model trained on" if split == "test_other" else f"of split {split}"
  return (
    f"Codec alone on whole tracks {whose}: "
    f"SI-SDR {number(overall['si_sdr'])} dB, "
    f"log-spectral distance {number(overall['log_spectral_distance'])} dB (means over tracks).\n\n"
    + table(header, rows)
  )


def _summary(tracks: list[dict[str, Any]]) -> dict[str, Any]:
  # The worst track stands beside the mean: a codec that fails on one kind of music shows there.
  scores = np.array([t["si_sdr"] for t in tracks])
  return {
    "tracks": len(tracks),
    "minutes": sum(t["seconds"] for t in tracks) / 60.0,
    "si_sdr": float(scores.mean()),
    "si_sdr_median": float(np.median(scores)),
    "si_sdr_worst": float(scores.min()),
    "log_spectral_distance": float(np.mean([t["log_spectral_distance"] for t in tracks])),
  }


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
  return evaluate_codec(
    lambda audio: model.decode(model.encode(audio)),
    _tracks_of(datasets),
    model.config.hop_length,
    config.sample_rate,
    config.codec.chunk_seconds,
    config.codec.context_seconds,
    print_progress,
    config.codec.split,
  )
