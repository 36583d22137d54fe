"""DPD against UNet-1D and UNet-2D, by velocity error and SI-SNR gain (the paper's appendix E).

    launch/sweep.sh denoisers DIR --config.data.path=ENCODED --config.train.steps=STEPS

The two UNets come twice: with as many parameters as the DPD (9.6 M, as in the appendix), and with
as many FLOPs a pass (4.7 GFLOP over 10 s; wider, the UNet-1D, and narrower, the UNet-2D). All have
the same conditions, loss, optimiser and data. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/dpd.py:nano"
MODULE = "melody_jax.train"
OUTPUT = "--workdir"
RESULT = "result.json"
METRICS = {
  "velocity MSE": ("metrics", "velocity_error"),
  "SI-SNR gain, dB": ("metrics", "si_snr_gain"),
}


def get_sweep() -> list[dict[str, Any]]:
  """The runs: values of config keys."""
  networks: list[dict[str, Any]] = [
    {"model.denoiser": "dpd"},
    {"model.denoiser": "unet_1d"},
    {"model.denoiser": "unet_2d"},
    {"model.denoiser": "unet_1d", "model.unet_1d.width": 152},
    {"model.denoiser": "unet_2d", "model.unet_2d.width": 50},
  ]
  return [{**network, "seed": seed} for network in networks for seed in (0, 1, 2)]
