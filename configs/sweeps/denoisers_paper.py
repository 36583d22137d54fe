"""DPD against UNet-1D and UNet-2D at the paper's size, by its recipe (its appendix E).

    launch/sweep.sh denoisers_paper DIR --config.data.path=ENCODED

About 300 M parameters each, 100,000 steps of AdamW at 5e-4, 96 rows a step. The last run is a
UNet-2D of as many FLOPs a pass as the DPD has (1.5 TFLOP over 10 s). The paper's figures: 0.12 and
6.15 dB, 0.13 and 5.33 dB, 0.15 and 4.96 dB. Scores: not measured.
"""

from typing import Any

CONFIG = "configs/dpd.py:paper"
MODULE = "melody_jax.train"
OUTPUT = "--workdir"
RESULT = "result.json"
METRICS = {
  "velocity MSE": ("metrics", "velocity_error"),
  "SI-SNR gain, dB": ("metrics", "si_snr_gain"),
}
RECIPE = {"train.steps": 100_000, "train.batch_size": 96, "optimizer.learning_rate": 5e-4}


def get_sweep() -> list[dict[str, Any]]:
  """The runs: values of config keys."""
  networks: list[dict[str, Any]] = [
    {"model.denoiser": "dpd"},
    {"model.denoiser": "unet_1d"},
    {"model.denoiser": "unet_2d"},
    {"model.denoiser": "unet_2d", "model.unet_2d.width": 208},
  ]
  return [{**network, **RECIPE} for network in networks]
