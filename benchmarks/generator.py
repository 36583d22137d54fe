"""The three networks of sampling (LM, DPD and decoder), from a preset or from a checkpoint."""

import dataclasses
import functools
import json
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from melody_jax import bundle
from melody_jax.denoisers import choice
from melody_jax.models import lm as lm_model
from melody_jax.models import vae as vae_model
from melody_jax.models.denoiser import LatentDenoiser
from melody_jax.models.layers import config_from
from melody_jax.places.config_pages import load

# Parameters that are stored in the dtype of computation. Scales, biases and the lapped transform
# are used in float32, and are a thousandth of the bytes.
_MATRICES = ("kernel", "embedding")


@dataclasses.dataclass(frozen=True)
class Generator:
  """Networks and parameters, on the device.

  Attributes:
    lm: The semantic LM.
    dpd: The denoiser.
    vae: Config of the codec; only its decoder is used.
    params: Parameters under "lm", "dpd" and "vae"; "vae" holds "decoder" and "latent_scale" only.
    origin: "random weights", or the SHA-256 of the checkpoint.
  """

  lm: lm_model.SemanticLM
  dpd: LatentDenoiser
  vae: vae_model.VAEConfig
  params: dict[str, Any]
  origin: str

  @property
  def dtypes(self) -> dict[str, str]:
    """The dtype of computation of each network."""
    return {"lm": self.lm.config.dtype, "dpd": self.dpd.config.dtype, "decoder": self.vae.dtype}


def store_as(params: Any, dtype: str) -> Any:
  """Casts the matrices in `params` to `dtype`, so that a pass reads no more bytes than it uses."""

  def cast(path, x):
    return jnp.asarray(x, dtype if path[-1].key in _MATRICES else None)

  return jax.tree_util.tree_map_with_path(cast, params)


def load_generator(preset: str, checkpoint: str | os.PathLike = "", dtype: str = "") -> Generator:
  """Loads the generator that is measured.

  Args:
    preset: "paper", "nano" or "tiny": sizes of a generator with random weights.
    checkpoint: Directory of a bundle, which then gives sizes and weights; "" means random weights.
    dtype: Dtype of computation and of stored matrices; "" means that of the configs.

  Raises:
    UserError: if a model of the checkpoint is missing or damaged.
  """

  def with_dtype(configs):
    return {n: dataclasses.replace(c, dtype=dtype or c.dtype) for n, c in configs.items()}

  if not checkpoint:
    return random_generator(with_dtype(preset_configs(preset)))
  configs, params = {}, {}
  for name, config_of in _CONFIGS.items():
    params[name], metadata = bundle.load(bundle.path_of(checkpoint, name))
    configs[name] = config_of(metadata["model_config"])
  configs = with_dtype(configs)
  params = {name: store_as(p, configs[name].dtype) for name, p in params.items()}
  return _assembled(configs, params, f"SHA-256 {bundle.digest(checkpoint)}")


_CONFIGS = {
  "lm": functools.partial(config_from, lm_model.LMConfig),
  "dpd": choice.config_of,
  "vae": functools.partial(config_from, vae_model.VAEConfig),
}


def preset_configs(preset: str) -> dict[str, Any]:
  """Model configs of a preset, under "lm", "dpd" and "vae"."""
  return {
    name: config_of(json.loads(load(name, preset).model.to_json_best_effort()))
    for name, config_of in _CONFIGS.items()
  }


def random_generator(configs: dict[str, Any]) -> Generator:
  """A generator with random weights; speed does not depend on their values.

  Args:
    configs: Model configs under "lm", "dpd" and "vae".
  """
  inits = {"lm": init_lm, "dpd": choice.init, "vae": _init_vae}
  params = {}
  for i, (name, init) in enumerate(inits.items()):
    config = configs[name]

    def born(key, init=init, config=config):
      # Cast inside the program, so that the float32 tree of a large model never exists as a whole.
      return store_as(nn.meta.unbox(init(config, key)), config.dtype)

    params[name] = jax.jit(born)(jax.random.key(i))
  return _assembled(configs, params, "random weights")


def _assembled(configs, params, origin) -> Generator:
  vae = {name: params["vae"][name] for name in ("decoder", "latent_scale")}
  return Generator(
    lm=lm_model.SemanticLM(configs["lm"]),
    dpd=choice.network_of(configs["dpd"]),
    vae=configs["vae"],
    params=jax.device_put(params | {"vae": vae}),
    origin=origin,
  )


def init_lm(config: lm_model.LMConfig, key: jax.Array) -> Any:
  """Parameters of `SemanticLM(config)`, boxed with their logical axes."""
  ids = jnp.zeros((1, config.style_levels + 1), jnp.int32)
  return lm_model.SemanticLM(config).init(key, ids)["params"]


def _init_vae(config, key):
  frames = 8
  audio = jnp.zeros((1, frames * config.hop_length))
  noise = jnp.zeros((1, frames, config.latent_dim))
  params = vae_model.VAE(config).init(key, audio, noise)["params"]
  spread = jnp.full((config.latent_dim,), 1 / 3)  # latents reach the decoder as they are
  scale = {"center_D": jnp.zeros((config.latent_dim,)), "sigma_D": spread}
  return {"decoder": params["decoder"], "latent_scale": scale}
