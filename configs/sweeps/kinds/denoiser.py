"""The DPD trained with one thing changed: what sweeps of its architecture have in common."""

CONFIG = "configs/dpd.py"
SEEDS = {"nano": 3, "paper": 1}
METRICS = {
  "velocity MSE": ("metrics", "velocity_error"),
  "SI-SNR gain, dB": ("metrics", "si_snr_gain"),
}
