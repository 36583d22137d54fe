"""Tiny datasets from which every model can train, and configs that read them."""

import pathlib

import numpy as np

from melody_jax.input_pipeline.shards import Feature, ShardWriter
from tests.configs import load_config

RATE = 24_000
SECONDS = 12  # of a record: a window of 10 s has several places in it


def _write(root: pathlib.Path, features, arrays_of) -> pathlib.Path:
  rng = np.random.default_rng(0)
  for split, records in (("train", 5), ("validation", 4)):
    writer = ShardWriter(root, split, 0, 1, features)
    for i in range(records):
      record = {"id": f"{split}{i}", "captions": [f"tone {i}", "noise"], "seconds": SECONDS}
      writer.write(record, arrays_of(rng, i))
    writer.close()
  return root


def write_audio(root: pathlib.Path) -> pathlib.Path:
  """What MuLan, wav2vec and the VAE-GAN train on."""
  t = np.arange(SECONDS * RATE) / RATE

  def arrays(rng, i):
    wave = 0.2 * np.sin(2 * np.pi * 220 * (i + 1) * t) + 0.05 * rng.normal(size=t.size)
    return {"audio": np.round(32767 * wave)}

  return _write(root, {"audio": Feature(RATE, "int16")}, arrays)


def write_encoded(root: pathlib.Path) -> pathlib.Path:
  """What LM and DPD train on, random."""
  features = {
    "style_tokens": Feature(0.5, "int16", (12,), per_window=True),
    "semantic_tokens": Feature(25.0, "int16"),
    "latents": Feature(50.0, "float16", (8,)),
  }

  def arrays(rng, i):
    del i
    return {
      "style_tokens": rng.integers(0, 8, (SECONDS // 2, 12)),
      "semantic_tokens": rng.integers(0, 16, 25 * SECONDS),
      "latents": rng.normal(size=(50 * SECONDS, 8)) / 3,
    }

  return _write(root, features, arrays)


def run_config(model: str, data: pathlib.Path, steps: int):
  """A short run whose steps do not depend on when it ends, with evaluation, media, checkpoints.

  Args:
    model: Name of the model.
    data: Directory with the datasets `audio` and `encoded`.
    steps: Number of steps.
  """
  c = load_config(model, "tiny")
  c.data.path = str(data / ("encoded" if model in ("lm", "dpd") else "audio"))
  if model == "dpd":
    c.window_seconds = 1.0
  c.train.update(
    steps=steps, batch_size=4, log_every=1, save_every=2, eval_every=2, eval_batches=1, media=True
  )
  # The warm-up's first rate is zero; Adam would blow a gradient of rounding errors up to a whole
  # step, so that its epsilon lies above them.
  c.optimizer.update(schedule="constant", warmup_steps=0, eps=1e-2)
  return c
