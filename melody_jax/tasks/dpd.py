"""Training of the denoiser: velocity regression under independent chunk angles.

The network is the dual-path one or, to compare with, a UNet: `config.model.denoiser`.
"""

import jax
import jax.numpy as jnp
import ml_collections

from melody_jax import diffusion
from melody_jax.denoisers import choice
from melody_jax.denoisers.sampling import latents_of_tokens
from melody_jax.errors import check_choice, check_range
from melody_jax.metrics import diffusion as diffusion_metrics
from melody_jax.models.denoiser import DenoiserConfig
from melody_jax.task import BaseTask, Batch, Metrics, Variables, WindowFeature

ANGLE_BUCKETS = 4
WEIGHTINGS = ("velocity", "unit")
HEARD = ("right", "shuffled", "none")


class DPDTask(BaseTask):
  """Batch: `latents` float32 [B, L, D], `semantic_tokens` int32 [B, T]."""

  def __init__(self, config: ml_collections.ConfigDict):
    super().__init__(config)
    self.model_config: DenoiserConfig = choice.config_of(config.model)
    self.model = choice.network_of(self.model_config)
    check_choice("config.loss.weighting", config.loss.weighting, WEIGHTINGS)
    check_choice("config.conditioning.tokens", config.conditioning.tokens, HEARD)
    check_range("config.conditioning.drop", config.conditioning.drop, 0, 1)
    self.frames = round(config.window_seconds * config.latent_rate)
    self.tokens = round(self.frames / self.model_config.frames_per_token)
    # Known here, before data are read: with fewer frames some chunks would have none.
    check_range("config.model.chunks", self.model_config.chunks, 1, self.frames)

  def input_features(self) -> dict[str, WindowFeature]:
    return {
      "latents": WindowFeature((self.frames, self.model_config.latent_dim), "float32"),
      "semantic_tokens": WindowFeature((self.tokens,), "int32", self.model_config.vocab_size),
    }

  def without_recomputation(self) -> "DPDTask":
    return self.with_model(remat=False)

  def init(self, rng: jax.Array) -> Variables:
    return choice.init(self.model_config, rng)

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Mean squared error of the velocity over all frames (docs/spec.md, section 6).

    With `config.loss.weighting` "unit" each frame's error is divided by what the best linear
    predictor leaves at its angle (`diffusion.preconditioning`): all angles count alike. With
    `config.conditioning.tokens` "shuffled" or "none" the network never hears a row's own tokens,
    here and in evaluation: what they are worth is what it loses by that.

    Metrics: `loss`; `velocity_error`, unweighted; `loss_angle_0` (nearly clean) to
    `loss_angle_3` (nearly noise), the loss by quarter of [0, pi/2]. In evaluation also
    `loss_shuffled`, with the semantic tokens of another row, `error_ratio`, the velocity error
    over that of the best constant per angle, and `si_snr_gain` in dB (`metrics.diffusion`).
    """
    del step
    z, tokens = batch["latents"], self._heard(batch["semantic_tokens"])
    angle_rng, noise_rng, drop_rng = jax.random.split(rng, 3)
    delta = diffusion.chunk_angles(angle_rng, z.shape[0], z.shape[1], self.model_config.chunks)
    noise = jax.random.normal(noise_rng, z.shape)
    noisy, target = diffusion.add_noise(z, noise, delta), diffusion.velocity(z, noise, delta)
    # None where all rows hear their tokens: the network then computes one answer and not two.
    conditional = None
    if train and tokens is not None and self.config.conditioning.drop:
      conditional = jax.random.bernoulli(drop_rng, 1.0 - self.config.conditioning.drop, z.shape[:1])

    weight_BxL = jnp.ones_like(delta)
    if self.config.loss.weighting == "unit":
      # scale is what the best linear predictor leaves at this angle, so each frame's error is
      # measured against it.
      _, _, scale = diffusion.preconditioning(delta, self.model_config.latent_std)
      weight_BxL = 1.0 / jnp.square(scale)

    def predict(tokens):
      return self.model.apply({"params": params}, noisy, delta, tokens, conditional)

    v = predict(tokens)
    plain_BxL = jnp.mean(jnp.square(v - target), axis=-1)
    velocity_error = jnp.mean(plain_BxL)
    errors_BxL = plain_BxL * weight_BxL
    loss = jnp.mean(errors_BxL)
    buckets = diffusion_metrics.by_angle(errors_BxL, delta, ANGLE_BUCKETS)
    metrics = {
      "loss": loss,
      "velocity_error": velocity_error,
      **{f"loss_angle_{i}": buckets[i] for i in range(ANGLE_BUCKETS)},
    }
    if not train:
      # Of this batch: the constant that is best for it, which favours the constant.
      variance_D = jnp.var(z, axis=(0, 1))
      constant = jnp.mean(diffusion_metrics.constant_predictor_error(variance_D, delta))
      metrics["error_ratio"] = velocity_error / constant
      gain_BxM = diffusion_metrics.si_snr_gain(z, noisy, v, delta, self.model_config.chunks)
      metrics["si_snr_gain"] = jnp.mean(gain_BxM)
      # Tokens of the next row: how much worse they do tells whether the network listens to tokens
      # at all.
      v = v if tokens is None else predict(jnp.roll(tokens, 1, axis=0))
      shuffled_BxL = jnp.mean(jnp.square(v - target), axis=-1) * weight_BxL
      metrics["loss_shuffled"] = jnp.mean(shuffled_BxL)
    return loss, metrics

  makes = "latents"

  def made(self, params: Variables, batch: Batch, rng: jax.Array) -> jax.Array:
    """Latents drawn from the tokens of the batch, [B, L, D]."""
    return latents_of_tokens(self.model, params, batch["semantic_tokens"], rng)

  def wanted(self, batch: Batch) -> jax.Array:
    return batch["latents"]

  def _heard(self, semantic_tokens_BxT: jax.Array) -> jax.Array | None:
    """Tokens [B, T] that the network is given: a row's own, those of the row before, or None."""
    if self.config.conditioning.tokens == "none":
      return None
    shuffled = self.config.conditioning.tokens == "shuffled"
    return jnp.roll(semantic_tokens_BxT, 1, axis=0) if shuffled else semantic_tokens_BxT
