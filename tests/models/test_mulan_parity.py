"""The music tower against transformers' ViT on copied random weights."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import mulan as configs
from melody_jax.models import mulan
from melody_jax.models.layers import config_from

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
  ours = mulan.MusicTower(config).apply({"params": params}, mel)
  assert np.abs(np.asarray(ours) - expected).max() < 1e-4
