"""The run of the sixth model."""

import ml_collections

from melody_jax.config import training_config


def get_config(preset: str = "tiny") -> ml_collections.ConfigDict:
  """The run's config; `preset` names it in the model's file."""
  c = training_config(task="loudness", preset=preset)
  c.model = dict(frame=240, width=16, remat=True)
  c.window_seconds = 1.0
  c.train.steps = 40
  c.train.log_every = 20
  c.train.eval_every = 20
  c.train.eval_batches = 1
  c.train.save_every = 40
  c.optimizer.learning_rate = 0.1
  c.optimizer.warmup_steps = 1
  return c
