"""Encoding of a dataset for LM and DPD training (docs/spec.md, section 1, "training targets").

    python -m melody_jax.encode --config=configs/encode.py --config.source=DIR --config.out=DIR

Cost: not measured on an idle machine. The score is that of the bundle: see its model card.

A number without a remark is the paper's where docs/spec.md says so; else it was not measured.
"""

import ml_collections

from melody_jax.config import distributed_config


def get_config() -> ml_collections.ConfigDict:
  """What to encode, from where to where."""
  c = ml_collections.ConfigDict()
  c.source = ""  # directory of the dataset to encode
  c.out = ""  # directory of the new dataset
  c.bundle = "checkpoints/nano"  # whose MuLan, wav2vec and VAE encode
  c.features = "style_tokens,semantic_tokens,latents"  # also: audio
  c.splits = "train,validation"  # comma-separated
  # Files of a split; a finished one is encoded again only where source or models have changed.
  c.shards = 8  # hosts share them out
  c.style_hop_seconds = 2.5  # between style windows; the DPD's chunks may be shorter
  # Share of style windows of the train split that carry the tokens of a caption, 0 to 1: an LM then
  # learns what prompts sound like. The paper has none.
  c.caption_styles = 0.0
  c.distributed = distributed_config()
  return c
