"""The music tower against transformers: its ViT, its AST through a file, and AST's front end."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import mulan as configs
from melody_jax.errors import UserError
from melody_jax.models import mulan
from melody_jax.models.layers import config_from
from melody_jax.models.music_tower import (
  MusicTower,
  fit_positions,
  params_from_safetensors,
  standardised_mel,
)

torch = pytest.importorskip("torch", reason="parity tests need the [parity] extra")
transformers = pytest.importorskip("transformers", reason="parity tests need the [parity] extra")
pytestmark = pytest.mark.parity

FRAMES, MELS, WIDTH, LAYERS = 64, 32, 24, 2


def _reference():
  torch.manual_seed(0)
  config = transformers.ViTConfig(
    hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=40,
    image_size=(MELS, FRAMES), patch_size=16, num_channels=1,
  )  # fmt: skip
  model = transformers.ViTModel(config, add_pooling_layer=False).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model


def _linear(state, name):
  return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def _norm(state, name):
  return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _find(state, *choices):
  """The first of the names under which versions of transformers keep a layer."""
  return next(c for c in choices if f"{c}.weight" in state)


def _block(state, i):
  at = _find(state, f"encoder.layer.{i}.layernorm_before", f"layers.{i}.layernorm_before")
  at = at.removesuffix(".layernorm_before")
  names = {
    "query": ("attention.attention.query", "attention.q_proj"),
    "key": ("attention.attention.key", "attention.k_proj"),
    "value": ("attention.attention.value", "attention.v_proj"),
    "out": ("attention.output.dense", "attention.o_proj"),
    "inner": ("intermediate.dense", "mlp.fc1"),
    "outer": ("output.dense", "mlp.fc2"),
  }
  layer = {k: _linear(state, _find(state, *(f"{at}.{n}" for n in v))) for k, v in names.items()}
  return {
    "attention": {k: layer[k] for k in ("query", "key", "value", "out")},
    "mlp": {k: layer[k] for k in ("inner", "outer")},
    "attention_norm": _norm(state, f"{at}.layernorm_before"),
    "mlp_norm": _norm(state, f"{at}.layernorm_after"),
  }


def test_matches_transformers_vit():
  model = _reference()
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  blocks = [_block(state, i) for i in range(LAYERS)]
  patches = state["embeddings.patch_embeddings.projection.weight"]
  params = {
    "patches": {
      "kernel": patches.reshape(WIDTH, 256).T,
      "bias": state["embeddings.patch_embeddings.projection.bias"],
    },
    "positions": state["embeddings.position_embeddings"][0],
    "cls": state["embeddings.cls_token"][0],
    "encoder": {"layers": jax.tree.map(lambda *x: np.stack(x), *blocks)},
    "norm": _norm(state, "layernorm"),
  }
  config = dataclasses.replace(
    config_from(mulan.MuLanConfig, configs.get_config("tiny").model),
    n_mels=MELS, music_width=WIDTH, music_layers=LAYERS, music_heads=2, music_mlp=40,
    music_pooling="cls",
  )  # fmt: skip
  mel = np.random.default_rng(0).normal(size=(2, FRAMES, MELS)).astype(np.float32)
  with torch.no_grad():
    expected = model(torch.tensor(mel.transpose(0, 2, 1)[:, None])).last_hidden_state[:, 0].numpy()
  ours = MusicTower(config.music).apply({"params": params}, mel)
  assert np.abs(np.asarray(ours) - expected).max() < 1e-4


# AST. A tiny one: 2 rows by 6 columns of patches.
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2}
AST_FRAMES = 66


@pytest.fixture(scope="module")
def ast():
  torch.manual_seed(0)
  config = transformers.ASTConfig(
    **SIZES, intermediate_size=40, num_mel_bins=MELS, max_length=AST_FRAMES
  )
  model = transformers.ASTModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model


def _published(name):
  """The name of a tensor in the checkpoint that its authors published."""
  new = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
  }
  for theirs, published in new.items():
    name = name.replace(theirs, published)
  if name.startswith("layers."):
    name = f"encoder.{name.replace('layers.', 'layer.', 1)}"
  return f"audio_spectrogram_transformer.{name}"


@pytest.fixture(scope="module")
def checkpoints(ast, tmp_path_factory):
  """The same weights under the names of this version, and under the published ones with a head."""
  from safetensors.torch import save_file

  directory = tmp_path_factory.mktemp("ast")
  state = {k: v.contiguous() for k, v in ast.state_dict().items()}
  save_file(state, directory / "new.safetensors")
  published = {_published(k): v for k, v in state.items()}
  assert "audio_spectrogram_transformer.encoder.layer.2.attention.attention.query.bias" in published
  head = {"classifier.dense.weight": torch.zeros(7, WIDTH)}
  save_file(published | head, directory / "published.safetensors")
  return directory


def _ast_config(frames=AST_FRAMES, **changes):
  model = configs.get_config("tiny").model
  model.update(
    n_mels=MELS, n_fft=512, win_length=400, hop_length=160, patch_stride=10, sample_rate=16_000,
    window_samples=400 + 160 * (frames - 1), music_front="kaldi", music_width=WIDTH,
    music_layers=3, music_heads=2, music_mlp=40, music_pooling="cls_distillation",
  )  # fmt: skip
  model.update(changes)
  return config_from(mulan.MuLanConfig, model).music


@pytest.mark.parametrize("name", ["new", "published"])
@pytest.mark.parametrize("pooling", ["cls_distillation", "cls"])
def test_matches_transformers_ast_through_a_file(ast, checkpoints, name, pooling):
  config = _ast_config(music_pooling=pooling)
  params = params_from_safetensors(checkpoints / f"{name}.safetensors", config)
  mel = np.random.default_rng(0).normal(size=(2, AST_FRAMES, MELS)).astype(np.float32)
  ours = np.asarray(MusicTower(config).apply({"params": params}, mel))
  if pooling == "cls":
    # Without the second token attention is another one; the weights are the same.
    assert params["positions"].shape == (1 + 12, WIDTH) and np.isfinite(ours).all()
    return
  with torch.no_grad():
    expected = ast(torch.tensor(mel)).pooler_output.numpy()
  assert np.abs(ours - expected).max() < 1e-4


def test_positions_of_a_longer_clip_are_those_of_torch():
  table = np.random.default_rng(0).normal(size=(1, 2 + 3 * 4, 5)).astype(np.float32)
  ours = fit_positions(table, (3, 9), [0, 1], "x")[2:].reshape(3, 9, 5)
  grid = torch.tensor(table[0, 2:].reshape(3, 4, 5)).permute(2, 0, 1)[None]
  theirs = torch.nn.functional.interpolate(grid, size=(3, 9), mode="bilinear")[0]
  assert np.abs(ours - theirs.permute(1, 2, 0).numpy()).max() < 1e-5


@pytest.mark.parametrize("seconds", [10.0, 1.01])
def test_the_front_end_is_that_of_the_feature_extractor(seconds):
  rng = np.random.default_rng(0)
  t = np.arange(int(seconds * 16_000)) / 16_000
  noise = 0.05 * rng.normal(size=t.size)
  audio = (noise + 0.4 * np.sin(2 * np.pi * 440 * t) * (t < 0.7) + 0.01).astype(np.float32)
  audio[2000:4000] = 0.0  # silence lies at the floor
  extractor = transformers.ASTFeatureExtractor()
  expected = extractor(audio, sampling_rate=16_000, return_tensors="np")["input_values"][0]
  config = dataclasses.replace(
    config_from(mulan.MuLanConfig, configs.get_config("paper").model).music,
    sample_rate=16_000,
    window_samples=t.size,
  )
  ours = np.asarray(standardised_mel(audio[None], config))[0]
  assert ours.shape == (1 + (t.size - 400) // 160, 128)
  assert np.abs(ours - expected[: len(ours)]).max() < 1e-4


def test_wrong_sizes_and_files_are_user_errors(checkpoints, tmp_path):
  new = checkpoints / "new.safetensors"
  with pytest.raises(UserError, match=r"mlp/inner/bias has shape \(3, 40\)"):
    params_from_safetensors(new, _ast_config(music_mlp=48))
  with pytest.raises(UserError, match=r"no tensor layers\.3\..*AST-shaped"):
    params_from_safetensors(new, _ast_config(music_layers=4))
  with pytest.raises(UserError, match="12 patches, which is no grid of 5 rows"):
    params_from_safetensors(new, _ast_config(n_mels=56))
  (tmp_path / "torn.safetensors").write_bytes(new.read_bytes()[:5000])
  for name in ("torn", "none"):
    with pytest.raises(UserError, match="cannot read"):
      params_from_safetensors(tmp_path / f"{name}.safetensors", _ast_config())
  (tmp_path / "model.safetensors").write_bytes(new.read_bytes())
  # Shapes alone would fit here: 12 patches are 3 rows as well as 2.
  for setting, expected in [
    ({"time_stride": 16}, r"time_stride = 16, config\.model\.patch_stride is 10"),
    ({"num_mel_bins": 42}, r"num_mel_bins = 42, config\.model\.n_mels is 32"),
    ({"num_attention_heads": 4}, r"config\.model\.music_heads is 2"),
  ]:
    (tmp_path / "config.json").write_text(json.dumps(setting))
    with pytest.raises(UserError, match=expected):
      params_from_safetensors(tmp_path / "model.safetensors", _ast_config())
  (tmp_path / "config.json").write_text("[1]")
  with pytest.raises(UserError, match="cannot read"):
    params_from_safetensors(tmp_path / "model.safetensors", _ast_config())
