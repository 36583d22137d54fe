"""Whole tracks through a stand-in codec."""

import numpy as np
import pytest

from melody_jax.evaluation.clips import whole_tracks
from melody_jax.evaluation.codec import evaluate_codec, frechet_distances, reconstruct
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.metrics.frechet import fit_gaussian, frechet_distance


def _smooth(audio):
  """A linear filter with a reach of 2 samples on either side."""
  return np.stack([np.convolve(row, [0.1, 0.2, 0.4, 0.2, 0.1], mode="same") for row in audio])


def test_chunks_with_context_equal_one_pass():
  audio = np.random.default_rng(0).normal(size=1_003).astype(np.float32)
  chunked = reconstruct(_smooth, audio, hop=4, chunk_frames=25, context_frames=1)
  np.testing.assert_allclose(chunked, _smooth(audio[None])[0], atol=1e-6)


def test_scores_are_means_over_tracks(tmp_path):
  rate = 2_000
  writer = ShardWriter(tmp_path, "test_other", 0, 1, {"audio": Feature(rate, "int16")})
  rng = np.random.default_rng(1)
  for package, track, segments in (("p", "p/a", 2), ("p", "p/b", 1), ("q", "q/c", 1)):
    for k in range(segments):
      pcm = np.round(rng.normal(size=3 * rate) * 3_000).astype(np.int16)
      writer.write({"id": f"{track}#{k}", "track": track, "package": package}, {"audio": pcm})
  writer.close()
  noise = np.random.default_rng(2)

  def ten_db_worse(audio):
    return audio + noise.normal(size=audio.shape) * audio.std() * 10 ** (-10 / 20)

  tracks = whole_tracks(Dataset(tmp_path, "test_other"))
  finding = evaluate_codec(ten_db_worse, tracks, 10, rate, 2.0, 0.0, lambda message: None)
  overall = finding.values["overall"]
  assert overall["tracks"] == 3 and overall["minutes"] == pytest.approx(12 / 60)
  assert overall["si_sdr"] == pytest.approx(10.0, abs=1.0)
  assert set(finding.values["packages"]) == {"p", "q"}
  assert overall["si_sdr"] == pytest.approx(
    np.mean([t["si_sdr"] for t in finding.values["tracks"]])
  )
  assert "| all | 3 |" in finding.markdown
  assert overall["mel_distance"] > 0 and overall["stft_distance"] > 0
  assert set(overall["si_sdr_by_band"]) == {"20-250 Hz", "250-1000 Hz"}  # 2 kHz have no more
  assert finding.values["fad"] is None and "| 250-1000 Hz |" in finding.markdown


def test_fad_of_the_codec_stands_beside_that_of_packages(tmp_path):
  rng = np.random.default_rng(3)
  vectors = {"p": [], "q": []}
  for name, centre in (("p", 0.0), ("q", 3.0)):
    for _ in range(2):
      original = centre + rng.normal(size=(20, 4))
      vectors[name].append((original, original + 0.1))
  found = frechet_distances(vectors)
  # All vectors moved by as much: only the means are apart, by 0.1 in four directions.
  assert found["reconstruction"] == pytest.approx(4 * 0.1**2, rel=1e-6)
  fits = [fit_gaussian(np.concatenate([o for o, _ in pairs])) for pairs in vectors.values()]
  assert found["between_packages"] == pytest.approx(frechet_distance(*fits))
  assert found["share"] == pytest.approx(found["reconstruction"] / found["between_packages"])
  assert not found["is_deficient"] and found["windows"] == 80
  alone = frechet_distances({"p": vectors["p"]})
  assert alone["between_packages"] is None and alone["share"] is None
