"""How well the VAE alone gives back music of packages that no model trained on."""

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from melody_jax.encoders.codec import Codec
from melody_jax.encoders.windows import map_windows
from melody_jax.errors import UserError
from melody_jax.evaluation.clips import datasets_of, whole_tracks
from melody_jax.evaluation.finding import Finding, number, table
from melody_jax.input_pipeline.array_dataset import ArrayDataset
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
  dataset: ArrayDataset,
  hop: int,
  sample_rate: int,
  chunk_seconds: float = 20.0,
  context_seconds: float = 2.0,
  progress: Progress = print_progress,
) -> Finding:
  """SI-SDR and log-spectral distance of whole tracks, per package and over all.

  The round trip is what sampling does: the posterior mean, clipped to the range that the DPD may
  produce, then decoded. All tracks have equal weight in a mean.

  Args:
    round_trip: Encodes, clips and decodes: audio [1, samples] -> audio [1, samples].
    dataset: Split of whole packages that no model trained on.
    hop: Samples per latent frame.
    sample_rate: Sample rate in Hz.
    chunk_seconds: Seconds of audio that one pass keeps.
    context_seconds: Seconds of audio on each side of that, see `reconstruct`.
    progress: Function that gets one line per track.

  Returns:
    The finding "codec": scores per track, per package and over all.
  """
  # In whole frames: a chunk that began within one would be another encoding.
  frames = [max(1, round(s * sample_rate / hop)) for s in (chunk_seconds, context_seconds)]
  tracks = []
  for record, audio_S in whole_tracks(dataset):
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
  return Finding("codec", values, _markdown(packages, overall))


def _markdown(packages: dict[str, dict[str, Any]], overall: dict[str, Any]) -> str:
  rows = [
    (name, s["tracks"], s["minutes"], s["si_sdr"], s["log_spectral_distance"], s["si_sdr_worst"])
    for name, s in [*packages.items(), ("all", overall)]
  ]
  header = ("package", "tracks", "minutes", "SI-SDR (dB)", "LSD (dB)", "worst track SI-SDR (dB)")
  return (
    "Codec alone on whole tracks of packages that no model trained on: "
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


def codec(config: ml_collections.ConfigDict) -> Finding:
  """Runs whole tracks of unseen packages through the codec alone (`evaluate --config=...:codec`).

  Args:
    config: configs/evaluate.py: bundle, data, sample_rate and codec.

  Returns:
    The finding "codec", see `evaluate_codec`.

  Raises:
    UserError: if several datasets have the split and none of them is called "recorded".
  """
  # Before any data is opened: a wrong bundle is the cheaper mistake to find.
  model = Codec.load(config.bundle)
  datasets = datasets_of(config, config.codec.split)
  if len(datasets) > 1 and "recorded" in datasets:
    datasets = {"recorded": datasets["recorded"]}  # the rendered one holds out styles, not packages
  if len(datasets) > 1:
    raise UserError(
      f"several datasets have a split {config.codec.split!r} and none is called recorded: "
      "name one in config.data"
    )
  (dataset,) = datasets.values()
  return evaluate_codec(
    lambda audio: model.decode(model.encode(audio)),
    dataset,
    model.config.hop_length,
    config.sample_rate,
    config.codec.chunk_seconds,
    config.codec.context_seconds,
    print_progress,
  )
