"""Loads the configs of configs/ for tests."""

import importlib.util
import pathlib

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def load_config(name: str, *arguments: str):
  """`get_config(*arguments)` of configs/<name>.py."""
  spec = importlib.util.spec_from_file_location(f"configs_{name}", CONFIGS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*arguments)


def waveform_vae():
  """Config of a run of the paper's form of the VAE-GAN, of a few thousand parameters."""
  c = load_config("vae", "paper")
  c.model.update(
    latent_dim=4, encoder_strides=(2, 3), encoder_widths=(4, 8), encoder_kernels=(5, 7),
    encoder_blocks=(2, 1), decoder_width=16, upsample_rates=(3, 2), upsample_widths=(16, 8),
    upsample_kernels=(5, 7), resblock_kernels=(3,), resblock_dilations=(1, 3), remat=False,
    dtype="float32",
  )  # fmt: skip
  with c.discriminator.unlocked():
    c.discriminator.update(
      periods=(2, 3), period_channels=(4, 4), resolutions=((64, 8, 30),), resolution_channels=4,
      dtype="float32",
    )  # fmt: skip
  c.loss.stft_resolutions = ((64, 32, 16), (32, 16, 8))
  c.window_seconds = 0.02
  c.train.update(batch_size=4, accumulate=1, steps=4)
  return c
