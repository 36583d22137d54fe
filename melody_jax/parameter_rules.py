"""What weight decay reaches and what may be frozen, by the names of parameters: one table each.

Names, not shapes: a norm's scale in a stack of layers has two dimensions, and so has a gate's bias.
"""

import fnmatch
from typing import Any

import jax

from melody_jax.errors import UserError

# The last part of a parameter's name -> whether weight decay pulls it towards zero. Maps between
# spaces decay. What shifts or scales does not, nor does anything that is looked up: a row that no
# batch has would only shrink, and rows said to be fixed (`lm.LMConfig.fixed_styles`) must stay.
DECAYS = {
  "kernel": True,
  "basis": True,  # a learned lapped transform
  "axes": True,  # of the spectral codec
  "bias": False,
  "scale": False,
  "offset": False,
  "cell": False,  # the elementwise weights of an SRU's gates
  "content_bias": False,
  "distance_bias": False,
  "layer_scale": False,
  "log_scale": False,  # a temperature
  "mean": False,
  "var": False,
  "embedding": False,
  "positions": False,
  "cls": False,
  "distillation": False,
  "mask_embedding": False,
  "angle_ends": False,
  "no_token": False,  # stands for tokens that a row does not hear
  "codebook": False,
}

# What a config may freeze -> patterns of whole names, as a shell writes them.
FROZEN = {
  "encoder": ("generator/encoder/*",),  # vae, loss.train_encoder=False
  "targets": ("feature_encoder/*", "quantizer/logits/*"),  # wav2vec, loss.freeze_targets
  "statistics": ("*/conv_norm/mean", "*/conv_norm/var"),  # wav2vec, conv_norm="batch"
}


def keys_of(path: tuple[Any, ...]) -> tuple[str, ...]:
  """Keys of a path in a tree as texts, the same for attributes, keys and indices."""
  return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def name_of(path: tuple[Any, ...]) -> str:
  """Name of a parameter from its path in the tree, "encoder/norm/scale"."""
  return "/".join(keys_of(path))


def decays(params: Any) -> Any:
  """Whether weight decay reaches a parameter: booleans in the tree of the parameters.

  Raises:
    UserError: A name is not in the table.
  """

  def rule(path: tuple[Any, ...], _: Any) -> bool:
    name = name_of(path)
    last = name.rpartition("/")[2]
    if last not in DECAYS:
      raise UserError(
        f"no rule says whether weight decay reaches {name}: add {last!r} to"
        " melody_jax.parameter_rules.DECAYS"
      )
    return DECAYS[last]

  return jax.tree.map_with_path(rule, params)


def frozen_labels(params: Any, *parts: str) -> Any:
  """Labels for the optimiser: "frozen" for parameters of the named parts, "default" for others.

  Args:
    params: Pytree of parameters.
    parts: Keys of FROZEN. A pattern that matches nothing is no error: a config may lack the part.

  Returns:
    Strings in the tree of the parameters, or None where nothing is to be frozen.
  """
  patterns = [pattern for part in parts for pattern in FROZEN[part]]
  if not patterns:
    return None

  def label(path: tuple[Any, ...], _: Any) -> str:
    name = name_of(path)
    return "frozen" if any(fnmatch.fnmatchcase(name, p) for p in patterns) else "default"

  return jax.tree.map_with_path(label, params)
