"""The choice of the denoiser: by a config, by a bundle, and all the way from training to music."""

import dataclasses
import shutil

import numpy as np
import pytest

from melody_jax import Melody, Request, Settings, export
from melody_jax.denoisers import choice, unet
from melody_jax.errors import UserError
from melody_jax.evaluation.denoiser import load_denoiser
from melody_jax.models import dpd
from melody_jax.places.config_pages import load
from melody_jax.training.loop import train
from tests.training.datasets import run_config, write_encoded


def test_configs_name_their_network():
  model = load("dpd", "tiny").model
  configs = {}
  for name in choice.DENOISERS:
    model.denoiser = name
    configs[name] = choice.config_of(model)
  assert type(configs["dpd"]) is dpd.DPDConfig
  assert configs["unet_1d"].bands == 1 and configs["unet_2d"].bands == 4
  # What they have in common is said once.
  for field in dataclasses.fields(choice.DenoiserConfig):
    assert len({getattr(c, field.name) for c in configs.values()}) == 1
  # Bundles from before the choice was there have the dual-path network.
  older = {k: v for k, v in model.items() if k not in ("denoiser", "fine_path", *choice.UNETS)}
  assert choice.config_of(older) == configs["dpd"]
  assert isinstance(choice.network_of(configs["unet_2d"]), unet.UNet)


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("denoiser", "unet_3d", "denoiser"),
    ("unet_1d.bands", 4, "unet_1d has 1"),
    ("unet_2d.bands", 1, "unet_2d several"),
    ("unet_2d.widht", 4, "no widht"),
    ("unet_2d.latent_dim", 4, "config.model's own"),
    ("widht", 4, "no widht"),
  ],
)
def test_what_does_not_fit_is_refused(key, value, message):
  model = load("dpd", "tiny").model
  with model.unlocked():
    model.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=message):
    choice.config_of(model)


def test_a_unet_is_trained_exported_evaluated_and_sampled(tiny_models, tmp_path):
  config = run_config("dpd", tmp_path, steps=2)
  write_encoded(tmp_path / "encoded")
  config.model.denoiser = "unet_2d"
  config.train.eval_every = 2
  train(config, str(tmp_path / "run"))
  bundle = shutil.copytree(tiny_models, tmp_path / "bundle")
  config.export.bundle = str(bundle)
  export.export(config, str(tmp_path / "run"))
  network, _ = choice.load(bundle)
  assert network.config == choice.config_of(config.model) and isinstance(network, unet.UNet)
  velocity, chunks = load_denoiser(bundle)
  z = np.random.default_rng(0).normal(size=(2, 20, 8)).astype(np.float32)
  v = velocity(z, np.full((2, 20), 1.0), np.zeros((2, 10), np.int32), np.array([True, False]))
  assert v.shape == z.shape and np.isfinite(v).all() and chunks == config.model.chunks
  request, settings = Request("slow bossa nova", seconds=1), Settings(steps=2, lm_guidance_scale=1)
  music = Melody.load(bundle).generate(request, settings)
  assert music.audio.shape == (24_000,) and np.isfinite(music.audio).all() and music.audio.std() > 0
