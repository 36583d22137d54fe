"""DPD against UNet-1D and UNet-2D, by velocity error and SI-SNR gain (the paper's appendix E).

    launch/sweep.sh denoisers[:paper] DIR --config.data.path=ENCODED

The UNets come with as many parameters as the DPD, as in the appendix, and then with as many FLOPs a
pass; at the paper's size the latter is the UNet-2D alone. All have the same conditions, loss,
optimiser and data. paper takes the appendix' recipe, whose figures are 0.12 and 6.15 dB, 0.13 and
5.33 dB, 0.15 and 4.96 dB. docs/spec.md, 6.9, has the sizes. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/dpd.py"
SEEDS = {"nano": 3, "paper": 1}
METRICS = {
  "velocity MSE": ("metrics", "velocity_error"),
  "SI-SNR gain, dB": ("metrics", "si_snr_gain"),
}
RECIPE = {"train.steps": 100_000, "train.batch_size": 96, "optimizer.learning_rate": 5e-4}


def get_sweep(preset: str) -> list[dict[str, Any]]:
  """The settings that are compared; `preset` is one of SEEDS."""
  networks: list[dict[str, Any]] = [
    {"model.denoiser": name} for name in ("dpd", "unet_1d", "unet_2d")
  ]
  if preset == "paper":
    wide = {"model.denoiser": "unet_2d", "model.unet_2d.width": 208}
    return [network | RECIPE for network in (*networks, wide)]
  return [
    *networks,
    {"model.denoiser": "unet_1d", "model.unet_1d.width": 152},
    {"model.denoiser": "unet_2d", "model.unet_2d.width": 50},
  ]
