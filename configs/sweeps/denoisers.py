"""DPD against UNet-1D and UNet-2D, by velocity error and SI-SNR gain (the paper's appendix E).

    launch/sweep.sh denoisers[:short|:paper] DIR --config.data.path=ENCODED

The UNets come with as many parameters as the DPD, as in the appendix, and then with as many FLOPs a
pass; at the paper's size the latter is the UNet-2D alone. All have the same conditions, loss,
optimiser and data. paper takes the appendix' recipe, whose figures are 0.12 and 6.15 dB, 0.13 and
5.33 dB, 0.15 and 4.96 dB. docs/spec.md, 6.9, has the sizes. short is nano's networks with as many
parameters, trained for 60 steps of 20 s of audio: a look at how they begin. Scores: not measured.
"""

from typing import Any

KIND = "denoiser"
SEEDS = {"nano": 3, "short": 3, "paper": 1}
BASE = {"short": "nano"}
RECIPE = {
  "paper": {
    "train.steps": 100_000,
    "train.batch_size": 96,
    "optimizer.learning_rate": 5e-4,
  },
  "short": {
    "train.steps": 60,
    "train.batch_size": 4,
    "window_seconds": 5.0,
    "train.eval_every": 60,
    "train.eval_batches": 16,
    "train.save_every": 60,
    "train.ema_decay": 0.0,  # an average over so few steps would be of the first ones
    "optimizer.warmup_steps": 10,
  },
}


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  networks: list[dict[str, Any]] = [
    {"model.denoiser": name} for name in ("dpd", "unet_1d", "unet_2d")
  ]
  if preset == "paper":
    wide = {"model.denoiser": "unet_2d", "model.unet_2d.width": 208}
    return [*networks, wide]
  if preset == "short":
    return networks
  return [
    *networks,
    {"model.denoiser": "unet_1d", "model.unet_1d.width": 152},
    {"model.denoiser": "unet_2d", "model.unet_2d.width": 50},
  ]
