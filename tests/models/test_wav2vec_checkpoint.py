"""Wav2Vec2-Conformer files: parity of the whole network, and what is taken where sizes differ."""

import dataclasses
import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.models.wav2vec import Wav2Vec, Wav2VecConfig
from melody_jax.models.wav2vec_checkpoint import params_from_safetensors
from melody_jax.task import make_task
from melody_jax.training.initial_params import with_params_of
from melody_jax.training.state import make_init
from tests.configs import load_config

torch = pytest.importorskip("torch", reason="parity tests need the [parity] extra")
transformers = pytest.importorskip("transformers", reason="parity tests need the [parity] extra")
pytestmark = pytest.mark.parity

# The second convolution needs no padding, and the input is padded by hand for the first.
CONFIG = Wav2VecConfig(
  conv_channels=(12, 12), conv_kernels=(10, 2), conv_strides=(5, 2), width=32, n_layers=2,
  n_heads=4, mlp_width=48, tokens_layer=1, kernel_size=7, conv_norm="batch",
  positions="rotary_input", n_groups=2, n_codes=6, code_size=16, projection_size=8,
)  # fmt: skip


def reference(positions: str):
  torch.manual_seed(0)
  config = transformers.Wav2Vec2ConformerConfig(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
    conv_depthwise_kernel_size=7, position_embeddings_type=positions, conv_dim=(12, 12),
    conv_kernel=(10, 2), conv_stride=(5, 2), num_feat_extract_layers=2, conv_bias=True,
    feat_extract_norm="layer", num_codevectors_per_group=6, num_codevector_groups=2,
    codevector_dim=16, proj_codevector_dim=8, num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4, attn_implementation="eager",
  )  # fmt: skip
  model = transformers.Wav2Vec2ConformerForPreTraining(config).eval()
  with torch.no_grad():
    for name, tensor in model.state_dict().items():
      if tensor.is_floating_point() and "embed_positions" not in name:
        tensor.add_(0.1 * torch.randn_like(tensor))
    for layer in model.wav2vec2_conformer.encoder.layers:
      layer.conv_module.batch_norm.running_var.copy_(0.5 + torch.rand(32))
  return model


@pytest.fixture(scope="module", params=["rotary", "relative"])
def model_and_file(request, tmp_path_factory):
  model = reference(request.param)
  directory = tmp_path_factory.mktemp(request.param)
  model.save_pretrained(directory)
  ours = {"rotary": "rotary_input", "relative": "relative"}[request.param]
  return model, directory / "model.safetensors", ours


def _apply(config, params, audio):
  n = audio.shape[1] // config.hop
  rest = (jnp.full((len(audio),), n), jnp.zeros((len(audio), n), bool), jnp.ones(()), None)
  return Wav2Vec(config).apply({"params": params}, audio, *rest)["context"]


def test_the_whole_network_equals_transformers(model_and_file):
  model, path, positions = model_and_file
  # The file has three blocks; the first two are asked for.
  model.wav2vec2_conformer.encoder.layers = model.wav2vec2_conformer.encoder.layers[:2]
  config = dataclasses.replace(CONFIG, positions=positions)
  params = params_from_safetensors(path, config)
  audio = np.random.default_rng(0).normal(size=(2, 400)).astype(np.float32)
  with torch.no_grad():
    padded = torch.tensor(np.pad(audio, ((0, 0), (2, 3))))
    hidden = model.wav2vec2_conformer(padded).last_hidden_state
    expected = model.project_hid(hidden).numpy()
  ours = np.asarray(_apply(config, params, audio))
  assert ours.shape == expected.shape == (2, 40, 8)
  assert np.abs(ours - expected).max() < 1e-4
  # Every parameter has its counterpart in the file.
  frame = (jnp.ones((1,), jnp.int32), jnp.zeros((1, 1), bool), jnp.ones(()))

  def init(key):
    return nn.meta.unbox(Wav2Vec(config).init(key, audio[:1, :10], *frame, None)["params"])

  own = jax.eval_shape(init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)


def _state(**changes):
  config = load_config("wav2vec", "tiny")
  config.model.update(
    conv_channels=[12, 12], conv_kernels=[10, 2], conv_strides=[5, 2], front="conv", front_pool=1,
    teacher_size=0, tokens_from="block", heard_share=0.0, mel_weight=1.0, width=32,
    n_layers=4, n_heads=4, mlp_width=48, kernel_size=7, n_codes=6, code_size=16, projection_size=8,
  )  # fmt: skip
  config.model.update(changes)
  config.loss.teacher_weight = 0.0
  task = make_task(config)
  init, _, _ = make_init(config, task)
  return jax.jit(init)(jax.random.key(1)), task


def test_what_agrees_is_taken_and_what_does_not_is_named(model_and_file, capsys):
  _, path, _ = model_and_file
  state, task = _state(mlp_width=40)
  begun = with_params_of(state, path, task, "wav2vec").params
  read = params_from_safetensors(path, task.model_config)
  query, new = (t["encoder"]["blocks"]["attention"]["query"]["kernel"] for t in (read, begun))
  # Three blocks of the file, and the fourth as it was born.
  assert query.shape == (3, 32, 32) and new.shape == (4, 32, 32)
  np.testing.assert_array_equal(new[:3], query)
  old = state.params["encoder"]["blocks"]
  np.testing.assert_array_equal(new[3], old["attention"]["query"]["kernel"][3])
  for layer in ("ffn1", "conv"):
    name = {"ffn1": "up", "conv": "conv_norm"}[layer]
    for a, b in zip(
      jax.tree.leaves(begun["encoder"]["blocks"][layer][name]), jax.tree.leaves(old[layer][name]),
      strict=True,
    ):  # fmt: skip
      np.testing.assert_array_equal(a, b)
  line = capsys.readouterr().err
  assert line.count("\n") == 1 and "of stacked ones 3 of 4 blocks" in line
  assert "encoder/blocks/ffn1/up/kernel (3, 32, 48), here (4, 32, 40)" in line
  assert (
    "not in it: encoder/blocks/conv/conv_norm/bias, encoder/blocks/conv/conv_norm/scale" in line
  )


def test_files_of_another_kind_are_refused(model_and_file, tmp_path):
  from safetensors.numpy import save_file

  _, path, _ = model_and_file
  state, task = _state()
  save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
  with pytest.raises(UserError, match="it is not a Wav2Vec2-Conformer-shaped checkpoint"):
    with_params_of(state, tmp_path / "model.safetensors", task, "wav2vec")
  (tmp_path / "torn.safetensors").write_bytes(path.read_bytes()[:999])
  with pytest.raises(UserError, match="truncated or damaged"):
    with_params_of(state, tmp_path / "torn.safetensors", task, "wav2vec")
  # As many heads as the file, or its weights mean something else.
  settings = json.loads((path.parent / "config.json").read_text())
  assert settings["num_attention_heads"] == 4
  state, task = _state(n_heads=2)
  with pytest.raises(UserError, match=r"num_attention_heads = 4, config\.model\.n_heads is 2"):
    with_params_of(state, path, task, "wav2vec")
  dpd = make_task(load_config("dpd", "tiny"))
  with pytest.raises(UserError, match="task 'dpd' begins with no other"):
    with_params_of(state, path, dpd, "dpd")
