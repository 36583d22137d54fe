"""VGGish and CLAP by files of weights: against torch and transformers, and what is refused."""

import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.evaluation.embeddings import clap, vggish
from melody_jax.evaluation.embeddings.choice import load
from tests.evaluation.onnx_networks import means_over_time

WIDTHS = (2, 3, 4, 4, 5, 5)


def _vggish_arrays(rng):
  arrays, width = {}, 1
  for (number, _), wider in zip(vggish._CONVOLUTIONS, WIDTHS, strict=True):
    arrays[f"features.{number}.weight"] = rng.normal(size=(wider, width, 3, 3)) / np.sqrt(9 * width)
    arrays[f"features.{number}.bias"] = rng.normal(size=wider) * 0.1
    width = wider
  width *= 6 * 4
  for number, wider in zip(vggish._DENSE, (16, 16, 8), strict=True):
    arrays[f"embeddings.{number}.weight"] = rng.normal(size=(wider, width)) / np.sqrt(width)
    arrays[f"embeddings.{number}.bias"] = rng.normal(size=wider) * 0.1
    width = wider
  return {name: array.astype(np.float32) for name, array in arrays.items()}


def _noise(seconds, rate, seed=0):
  return (np.random.default_rng(seed).normal(size=int(seconds * rate)) * 0.1).astype(np.float32)


def test_vggish_by_a_file(tmp_path):
  arrays = _vggish_arrays(np.random.default_rng(0))
  np.savez(tmp_path / "v.npz", **arrays)
  (embedding,) = load(f"vggish={tmp_path / 'v.npz'}", "no bundle")
  audio = _noise(10, 16_000)
  vectors = embedding(audio)
  assert vectors.shape == (10, 8) and embedding.name == "VGGish"
  assert (vectors < 0).any()  # no rectifier at the end
  assert embedding(audio[:8000]).shape == (1, 8)
  del arrays["embeddings.4.bias"]
  np.savez(tmp_path / "lacks.npz", **arrays)
  (tmp_path / "bad.npz").write_bytes(b"PK no archive")
  (tmp_path / "v.bin").write_bytes(b"")
  for name, message in (
    ("lacks.npz", r"lacks embeddings\.4\.bias"),
    ("bad.npz", "damaged"),
    ("v.bin", "must end in"),
    ("none.npz", "no file of weights"),
  ):
    with pytest.raises(UserError, match=message):
      vggish.VggishEmbedding(tmp_path / name)


def test_vggish_input_is_that_of_audioset():
  """The published front end, written down once more in float64 and Hz by Hz."""
  audio = _noise(1.0, 16_000)
  frames = np.stack([audio[t * 160 : t * 160 + 400] for t in range(96)]).astype(np.float64)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
  magnitude = np.abs(np.fft.rfft(frames * window, 512))

  def mel(hz):
    return 1127.0 * np.log(1.0 + hz / 700.0)

  edges, bins = np.linspace(mel(125.0), mel(7500.0), 66), mel(np.linspace(0, 8000, 257))
  weights = np.zeros((257, 64))
  for i in range(64):
    low, centre, high = edges[i : i + 3]
    weights[:, i] = np.maximum(
      0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    )
  weights[0] = 0
  np.testing.assert_allclose(
    vggish.log_mel_patches(audio)[0], np.log(magnitude @ weights + 0.01), atol=1e-4
  )


@pytest.mark.parity
def test_vggish_equals_torch(tmp_path):
  torch = pytest.importorskip("torch", reason="[parity] runs the torch port's layers")
  nn, arrays = torch.nn, _vggish_arrays(np.random.default_rng(1))
  features, width = [], 1
  for (_, is_pooled), wider in zip(vggish._CONVOLUTIONS, WIDTHS, strict=True):
    features += [nn.Conv2d(width, wider, 3, 1, 1), nn.ReLU(True)]
    features += [nn.MaxPool2d(2, 2)] if is_pooled else []
    width = wider
  model = nn.Module()
  model.features = nn.Sequential(*features)
  model.embeddings = nn.Sequential(
    nn.Linear(width * 24, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)
  )
  model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
  torch.save(model.state_dict(), tmp_path / "v.pth")
  audio = _noise(3, 16_000)
  with torch.no_grad():
    x = model.features(torch.tensor(vggish.log_mel_patches(audio))[:, None])
    x = torch.transpose(torch.transpose(x, 1, 3), 1, 2).reshape(len(x), -1)
    expected = model.embeddings(x).numpy()
  found = vggish.VggishEmbedding(tmp_path / "v.pth")(audio)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clap_by_a_file(tmp_path):
  means_over_time(tmp_path / "c.onnx", "input_features", "audio_embeds", (1, 1001, 64))
  (embedding,) = load(f"clap={tmp_path / 'c.onnx'}", "no bundle")
  audio = _noise(16, 48_000)
  vectors = embedding(audio)
  assert vectors.shape == (3, 64)  # from 0, 5 and 6 s
  np.testing.assert_allclose(vectors, clap.features(audio)[:, 0].mean(axis=1), atol=1e-3)
  means_over_time(tmp_path / "other.onnx", "waveform", "audio_embeds", (1, 1001, 64))
  (tmp_path / "bad.onnx").write_bytes(b"no network")
  for name, message in (
    ("other.onnx", "takes waveform"),
    ("bad.onnx", "no intact ONNX file"),
    ("none.onnx", "no file"),
  ):
    with pytest.raises(UserError, match=message):
      clap.ClapEmbedding(tmp_path / name)


@pytest.mark.parity
@pytest.mark.parametrize("seconds", (10, 3.3))
def test_clap_input_is_that_of_transformers(seconds):
  transformers = pytest.importorskip("transformers", reason="[parity] the published front end")
  extract = transformers.ClapFeatureExtractor(
    truncation="rand_trunc", padding="repeatpad", frequency_min=50, frequency_max=14_000
  )
  audio = _noise(seconds, 48_000)
  expected = extract(audio, sampling_rate=48_000, return_tensors="np")["input_features"]
  np.testing.assert_allclose(clap.features(audio), expected, atol=2e-3)
