"""Ways to sample from a bundle: what steps, angle_schedule, guidance and solver have in common.

Every run makes 16 prompts with one seed and compares them with held-out windows of --config.data,
by musicnn. FAD of so few clips is too large, for all rows alike. paper wants a bundle of that size
in checkpoints/paper.
"""

CONFIG = "configs/evaluate.py"
SEEDS = {"nano": 3, "paper": 3}
BASE = {"nano": "sampling", "paper": "sampling"}
RECIPE = {"paper": {"bundle": "checkpoints/paper", "sampling.reference_windows": 1000}}
METRICS = {
  "FAD": ("scores", "fad"),
  "KAD": ("scores", "kad"),
  "MCC": ("scores", "mcc"),
  "right family": ("scores", "right_family"),
  "held notes a second": ("scores", "held_notes"),
  "network passes": ("scores", "nfe"),
  "seconds of audio a second": ("scores", "audio_seconds_per_second"),
}
