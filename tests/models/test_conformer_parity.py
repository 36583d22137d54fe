"""The conformer against transformers' Wav2Vec2Conformer encoder on copied random weights."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.models import layers
from melody_jax.models.conformer import Conformer, ConformerConfig

torch = pytest.importorskip("torch", reason="parity tests need the [parity] extra")
transformers = pytest.importorskip("transformers", reason="parity tests need the [parity] extra")

pytestmark = pytest.mark.parity

CONFIG = ConformerConfig(
  width=32,
  n_layers=3,
  n_heads=4,
  mlp_width=48,
  kernel_size=31,
  conv_norm="batch",
  positions="rotary_input",
)
N_FRAMES = 40


def reference_encoder(positions: str):
  from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as modeling

  config = transformers.Wav2Vec2ConformerConfig(
    hidden_size=CONFIG.width,
    num_hidden_layers=CONFIG.n_layers,
    num_attention_heads=CONFIG.n_heads,
    intermediate_size=CONFIG.mlp_width,
    conv_depthwise_kernel_size=CONFIG.kernel_size,
    position_embeddings_type=positions,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    attn_implementation="eager",
  )
  torch.manual_seed(0)
  encoder = modeling.Wav2Vec2ConformerEncoder(config).eval()
  with torch.no_grad():
    for name, tensor in encoder.state_dict().items():
      if tensor.is_floating_point() and "embed_positions" not in name:
        tensor.add_(0.1 * torch.randn_like(tensor))  # so that no bias or statistic is trivial
    for layer in encoder.layers:
      layer.conv_module.batch_norm.running_var.copy_(0.5 + torch.rand(CONFIG.width))
  return encoder


def copied_params(encoder) -> dict:
  """transformers' parameters under our names, blocks stacked; the final norm beside them."""
  state = {k: v.detach().numpy() for k, v in encoder.state_dict().items()}

  def dense(name: str) -> dict:
    bias = {"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {}
    return {
      "kernel": state[f"{name}.weight"].squeeze(-1 if state[f"{name}.weight"].ndim == 3 else ()).T
    } | bias

  def norm(name: str) -> dict:
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

  def block(i: int) -> dict:
    p = f"layers.{i}"
    attention = {
      ours: dense(f"{p}.self_attn.linear_{theirs}")
      for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out"))
    }
    if f"{p}.self_attn.linear_pos.weight" in state:
      attention |= {
        "distance": dense(f"{p}.self_attn.linear_pos"),
        "content_bias": state[f"{p}.self_attn.pos_bias_u"],
        "distance_bias": state[f"{p}.self_attn.pos_bias_v"],
      }
    conv = f"{p}.conv_module"
    return {
      "ffn1_norm": norm(f"{p}.ffn1_layer_norm"),
      "ffn2_norm": norm(f"{p}.ffn2_layer_norm"),
      "attention_norm": norm(f"{p}.self_attn_layer_norm"),
      "final_norm": norm(f"{p}.final_layer_norm"),
      "ffn1": {
        "up": dense(f"{p}.ffn1.intermediate_dense"),
        "down": dense(f"{p}.ffn1.output_dense"),
      },
      "ffn2": {
        "up": dense(f"{p}.ffn2.intermediate_dense"),
        "down": dense(f"{p}.ffn2.output_dense"),
      },
      "attention": attention,
      "conv": {
        "norm": norm(f"{conv}.layer_norm"),
        "gate": dense(f"{conv}.pointwise_conv1"),
        "depthwise": {"kernel": state[f"{conv}.depthwise_conv.weight"][:, 0].T},
        "conv_norm": norm(f"{conv}.batch_norm")
        | {
          "mean": state[f"{conv}.batch_norm.running_mean"],
          "var": state[f"{conv}.batch_norm.running_var"],
        },
        "out": dense(f"{conv}.pointwise_conv2"),
      },
    }

  blocks = [block(i) for i in range(CONFIG.n_layers)]
  return {"blocks": jax.tree.map(lambda *xs: jnp.asarray(np.stack(xs)), *blocks)}


@pytest.mark.parametrize(("theirs", "ours"), [("rotary", "rotary_input"), ("relative", "relative")])
def test_encoder_equals_transformers(theirs, ours):
  encoder = reference_encoder(theirs)
  config = dataclasses.replace(CONFIG, positions=ours)
  params = copied_params(encoder)
  x = np.random.default_rng(0).normal(size=(2, N_FRAMES, config.width)).astype(np.float32)
  mask = np.ones((2, N_FRAMES), bool)

  shapes = jax.eval_shape(Conformer(config).init, jax.random.key(0), x, mask)["params"]
  shapes = jax.tree.map(jnp.shape, nn.meta.unbox(shapes))
  assert jax.tree.map(jnp.shape, params) == shapes  # nothing is left uncopied

  y = Conformer(config).apply({"params": params}, x, mask)
  final = {
    "scale": encoder.layer_norm.weight.detach().numpy(),
    "bias": encoder.layer_norm.bias.detach().numpy(),
  }
  y = layers.LayerNorm().apply({"params": final}, y)
  with torch.no_grad():
    expected = encoder(torch.from_numpy(x.copy())).last_hidden_state.numpy()
  assert np.abs(np.asarray(y) - expected).max() < 1e-4
