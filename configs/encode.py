"""Encoding a dataset for LM and DPD training (docs/spec.md, section 1, "training targets").

    python -m melody_jax.encode --config=configs/encode.py --config.source=DIR --config.out=DIR

Cost: not measured on an idle machine.
"""

import ml_collections

from melody_jax.config import distributed_config


def get_config() -> ml_collections.ConfigDict:
  """What to encode, from where to where."""
  c = ml_collections.ConfigDict()
  c.source = ""  # an array dataset, or the TFDS directory
  c.tfds = ""  # TFDS dataset name; empty: `source` is an array dataset
  c.out = ""
  c.bundle = "checkpoints/nano"
  c.features = "style_tokens,semantic_tokens,latents"  # also: audio
  c.splits = "train,validation"
  c.shards = 8
  c.style_hop_seconds = 2.5  # a new style window every chunk of the DPD
  c.distributed = distributed_config()
  return c
