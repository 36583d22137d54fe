"""Training of the sixth model."""

import jax
import jax.numpy as jnp

from melody_jax.models.layers import config_from
from melody_jax.models.loudness import Loudness, LoudnessConfig
from melody_jax.task import BaseTask, WindowFeature


class LoudnessTask(BaseTask):
  """Batch: `audio` [B, T]."""

  def __init__(self, config):
    super().__init__(config)
    self.model = Loudness(config_from(LoudnessConfig, config.model))
    self.samples = round(config.window_seconds * config.sample_rate)

  def input_features(self):
    return {"audio": WindowFeature((self.samples,), "float32")}

  def init(self, rng):
    return self.model.init(rng, jnp.zeros((1, self.samples)))["params"]

  def loss(self, params, batch, rng, step, train=True):
    del rng, step, train
    audio = batch["audio"]
    frames = audio.reshape(audio.shape[0], -1, self.model.config.frame)
    target = jnp.log(jnp.mean(jnp.square(frames), axis=-1) + 1e-6)
    error = jnp.mean(jnp.square(self.model.apply({"params": params}, audio) - target))
    return error, {"loss": error, "spread": jnp.std(jax.lax.stop_gradient(target))}

  def without_recomputation(self):
    return self.with_model(remat=False)
