"""Which network stands in the place of the denoiser: `config.model.denoiser`, and what it names.

`config.model` of configs/dpd.py has the sizes of the dual-path network, and under the names of the
other networks what those have of their own; conditions and edges (`models.denoiser`) are common. A
bundle's file has the same, so whatever reads one finds its network here.
"""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

import jax

from melody_jax import bundle as bundles
from melody_jax.denoisers import unet
from melody_jax.errors import UserError, check_choice
from melody_jax.models import dpd
from melody_jax.models.denoiser import DenoiserConfig, LatentDenoiser
from melody_jax.models.layers import config_from

UNETS = ("unet_1d", "unet_2d")
DENOISERS = ("dpd", *UNETS)
_SHARED = tuple(field.name for field in dataclasses.fields(DenoiserConfig))


def config_of(values: Mapping[str, Any]) -> DenoiserConfig:
  """Makes the config of the network that `config.model` names.

  Args:
    values: `config.model` of configs/dpd.py, or what a bundle's file has of it. Without
      `denoiser` it is the dual-path network.

  Raises:
    UserError: for a name that DENOISERS lacks, and as `config_from`, for sizes of any of the
      networks that are there.
  """
  flat = {key: value for key, value in values.items() if key not in ("denoiser", *UNETS)}
  name = values.get("denoiser", "dpd")
  check_choice("config.model.denoiser", name, DENOISERS)
  # Also where another network is chosen: a misspelt key is one in any case.
  configs: dict[str, DenoiserConfig] = {"dpd": config_from(dpd.DPDConfig, flat)}
  shared = {key: getattr(configs["dpd"], key) for key in _SHARED}
  for key in UNETS:
    if key in values:
      configs[key] = _unet_config(key, shared, values[key])
  if name not in configs:
    raise UserError(f"config.model.denoiser is {name!r}, and config.model has no {name}")
  return configs[name]


def _unet_config(name: str, shared: dict[str, Any], own: Mapping[str, Any]) -> unet.UNetConfig:
  twice = sorted(set(own) & set(shared))
  if twice:
    raise UserError(f"config.model.{name}: {', '.join(twice)} is config.model's own")
  config = config_from(unet.UNetConfig, shared | dict(own.items()))
  if (config.bands > 1) != (name == "unet_2d"):
    raise UserError(f"config.model.{name}.bands is {config.bands}; unet_1d has 1, unet_2d several")
  return config


def network_of(config: DenoiserConfig) -> LatentDenoiser:
  """The module of a config, without parameters."""
  return unet.UNet(config) if isinstance(config, unet.UNetConfig) else dpd.DPD(config)


def init(config: DenoiserConfig, rng: jax.Array):
  """Parameters of `network_of(config)`, boxed with their logical axes."""
  if isinstance(config, dpd.DPDConfig):
    return dpd.init(config, rng)
  assert isinstance(config, unet.UNetConfig)
  return unet.init(config, rng)


def load(bundle: str | os.PathLike) -> tuple[LatentDenoiser, dict[str, Any]]:
  """Reads the denoiser of a bundle.

  Returns:
    (the module, nested dict of its parameters).

  Raises:
    UserError: as `bundle.load_model`.
  """
  config, params = bundles.load_model(bundle, "dpd", config_of)
  return network_of(config), params
