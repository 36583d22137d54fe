"""Reads public Wav2Vec2-Conformer checkpoints, as far as they agree with the tokeniser's network.

The tokeniser differs from the public models (24 kHz, 25 frames a second, other sizes), so a file
gives what it has, and whoever lays it over a network compares shapes (docs/spec.md, section 4.1).
"""

import os
from typing import Any

from melody_jax.models.public_checkpoint import Reader, check_settings, open_checkpoint
from melody_jax.models.wav2vec import Wav2VecConfig

# Our layer (inside a block) -> its name inside "encoder.layers.<i>." of a checkpoint.
_NORMS = {
  "ffn1_norm": "ffn1_layer_norm",
  "ffn2_norm": "ffn2_layer_norm",
  "attention_norm": "self_attn_layer_norm",
  "final_norm": "final_layer_norm",
}
_ATTENTION = {"query": "linear_q", "key": "linear_k", "value": "linear_v", "out": "linear_out"}
# Our layer -> its name; those of the heads stand only in files of the training model.
_NORMS_OUTSIDE = {
  "feature_norm": "feature_projection.layer_norm",
  "encoder_norm": "encoder.layer_norm",
}
_DENSE_OUTSIDE = {
  "feature_projection": "feature_projection.projection",
  "context_projection": "project_hid",
  "target_projection": "project_q",
}


def params_from_safetensors(path: str | os.PathLike, config: Wav2VecConfig) -> dict[str, Any]:
  """What a public Wav2Vec2-Conformer checkpoint says about the parameters of `Wav2Vec(config)`.

  Args:
    path: File `model.safetensors` with the tensor names of Wav2Vec2-Conformer (with or without a
      "wav2vec2_conformer." prefix, with or without the heads of its training).
    config: Sizes; of a checkpoint with more blocks the first ones are taken.

  Returns:
    Nested dict of float32 numpy arrays under the names of our parameters, in the file's shapes:
    stacked blocks are as many as the file has, at most `config.n_layers`. A batch norm's parameters
    are there only where the network has a batch norm.

  Raises:
    UserError: The file is missing or damaged, is of another kind, or has as wide blocks as the
      network with another number of heads.
  """
  with open_checkpoint(path, "Wav2Vec2-Conformer", "wav2vec2_conformer.") as reader:
    # Raises for a file of another kind.
    width = reader.norm("encoder.layers.0.ffn1_layer_norm")["scale"].shape
    if width == (config.width,):
      check_settings(path, {"num_attention_heads": ("n_heads", config.n_heads)})
    params: dict[str, Any] = {"feature_encoder": _feature_encoder(reader, config)}
    params |= {our: reader.norm(name) for our, name in _NORMS_OUTSIDE.items()}
    params |= {
      our: reader.dense(name)
      for our, name in _DENSE_OUTSIDE.items()
      if reader.has(f"{name}.weight")
    }
    if reader.has("masked_spec_embed"):
      params["mask_embedding"] = reader.get("masked_spec_embed")
    if reader.has("quantizer.codevectors"):
      params["quantizer"] = _quantizer(reader, config)
    blocks: list[dict[str, Any]] = []
    while len(blocks) < config.n_layers and reader.has(
      f"encoder.layers.{len(blocks)}.ffn1_layer_norm.weight"
    ):
      blocks.append(_block(reader, f"encoder.layers.{len(blocks)}", config))
    params["encoder"] = {"blocks": reader.stack(blocks)}
  return params


def _feature_encoder(reader: Reader, config: Wav2VecConfig) -> dict[str, Any]:
  at = "feature_extractor.conv_layers"
  # A lone norm over the first layer is a group norm over time: ours normalises single frames.
  norms = reader.has(f"{at}.1.layer_norm.weight")
  layers: dict[str, Any] = {}
  for i in range(len(config.conv_channels)):
    if not reader.has(f"{at}.{i}.conv.weight"):
      break
    # [out, in, taps] -> [taps, in, out].
    layers[f"conv_{i}"] = {"kernel": reader.get(f"{at}.{i}.conv.weight").T}
    if reader.has(f"{at}.{i}.conv.bias"):
      layers[f"conv_{i}"]["bias"] = reader.get(f"{at}.{i}.conv.bias")
    if norms:
      layers[f"norm_{i}"] = reader.norm(f"{at}.{i}.layer_norm")
  return layers


def _quantizer(reader: Reader, config: Wav2VecConfig) -> dict[str, Any]:
  codes = reader.get("quantizer.codevectors")
  # [1, G V, E] -> [G, V, E], where the number of groups divides it.
  if codes.ndim == 3 and codes.shape[1] % config.n_groups == 0:
    codes = codes.reshape(config.n_groups, -1, codes.shape[-1])
  return {"codebook": codes, "logits": reader.dense("quantizer.weight_proj")}


def _block(reader: Reader, at: str, config: Wav2VecConfig) -> dict[str, Any]:
  block: dict[str, Any] = {our: reader.norm(f"{at}.{name}") for our, name in _NORMS.items()}
  for ffn in ("ffn1", "ffn2"):
    block[ffn] = {
      "up": reader.dense(f"{at}.{ffn}.intermediate_dense"),
      "down": reader.dense(f"{at}.{ffn}.output_dense"),
    }
  attention = f"{at}.self_attn"
  block["attention"] = {our: reader.dense(f"{attention}.{n}") for our, n in _ATTENTION.items()}
  if config.positions == "relative" and reader.has(f"{attention}.linear_pos.weight"):
    block["attention"] |= {
      "distance": reader.dense(f"{attention}.linear_pos", bias=False),
      "content_bias": reader.get(f"{attention}.pos_bias_u"),
      "distance_bias": reader.get(f"{attention}.pos_bias_v"),
    }
  conv = f"{at}.conv_module"
  # [D, 1, taps] -> [taps, D].
  depthwise = reader.get(f"{conv}.depthwise_conv.weight")
  block["conv"] = {
    "norm": reader.norm(f"{conv}.layer_norm"),
    "gate": reader.dense(f"{conv}.pointwise_conv1", bias=False),
    "depthwise": {"kernel": depthwise.reshape(len(depthwise), -1).T},
    "out": reader.dense(f"{conv}.pointwise_conv2", bias=False),
  }
  if config.conv_norm == "batch":
    block["conv"]["conv_norm"] = reader.norm(f"{conv}.batch_norm") | {
      "mean": reader.get(f"{conv}.batch_norm.running_mean"),
      "var": reader.get(f"{conv}.batch_norm.running_var"),
    }
  return block
