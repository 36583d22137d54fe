"""Training of the VAE-GAN (docs/spec.md, section 7): two players that take turns.

As in HiFi-GAN the discriminators step first, on sound that the generator made, then the generator
steps against the updated discriminators. Without an adversarial term there is one player.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from melody_jax.errors import UserError
from melody_jax.losses import adversarial, spectral
from melody_jax.models import spectral_codec
from melody_jax.models.discriminator import (
  DiscriminatorConfig,
  Discriminators,
  Judgement,
  SpectrumDiscriminators,
)
from melody_jax.models.layers import config_from
from melody_jax.models.vae import LATENT_SCALE, VAE, VAEConfig
from melody_jax.parameter_rules import frozen_labels
from melody_jax.task import BaseTask, Batch, Metrics, Turn, Variables, WindowFeature


class VAETask(BaseTask):
  """Parameters: {"generator": VAE, "discriminator": Discriminators} (the latter where weighted)."""

  def __init__(self, config: ml_collections.ConfigDict):
    super().__init__(config)
    self.model_config = config_from(VAEConfig, config.model)
    self.model = VAE(self.model_config)
    judges = config_from(DiscriminatorConfig, config.discriminator)
    self.judges = (SpectrumDiscriminators if self.model_config.spectral else Discriminators)(judges)
    self.samples = round(config.window_seconds * config.sample_rate)
    if self.model_config.hop_length < 1:
      raise UserError(
        f"config.model.encoder_strides is {tuple(self.model_config.encoder_strides)}; strides are 1"
        " or more"
      )
    if self.samples % self.model_config.hop_length:
      raise UserError(
        f"config.window_seconds makes {self.samples} samples, which is not a multiple of the"
        f" model's hop {self.model_config.hop_length}"
      )
    self.adversarial = config.loss.adversarial > 0

  def input_features(self) -> dict[str, WindowFeature]:
    return {"audio": WindowFeature((self.samples,), "float32")}

  def without_recomputation(self) -> "VAETask":
    return self.with_model(remat=False)

  def init(self, rng: jax.Array) -> Variables:
    audio = jnp.zeros((1, self.samples))
    noise = jnp.zeros(
      (1, self.samples // self.model_config.hop_length, self.model_config.latent_dim)
    )
    generator_rng, judge_rng = jax.random.split(rng)
    params = {"generator": self.model.init(generator_rng, audio, noise)["params"]}
    if self.adversarial:
      heard = audio
      if self.model_config.spectral:
        # The judges of a codec without phase hear none.
        heard = spectral_codec.log_magnitudes(audio, self.model_config)
      params["discriminator"] = self.judges.init(judge_rng, heard)["params"]
    return params

  def turns(self) -> tuple[Turn, ...]:
    """The discriminators' turn, then the generator's; one turn without an adversarial term."""
    if not self.adversarial:
      return super().turns()
    optimizer = self.config.optimizer.copy_and_resolve_references()
    own = self.config.discriminator_optimizer
    optimizer.update({key: value for key, value in own.items() if value is not None})
    return (
      Turn(self._discriminator_turn, "discriminator", optimizer),
      Turn(self._generator_turn, "generator"),
    )

  def optimizer_labels(self, params):
    return frozen_labels(params, *([] if self.config.loss.train_encoder else ["encoder"]))

  def loss(self, params, batch, rng, step, train=True):
    """Losses of both players, as evaluation reports them. The metric "loss" is the generator's."""
    del train  # the posterior is sampled in evaluation too: the DPD's latents are not exact either
    total, metrics, judged = self._reconstruction(params["generator"], batch, rng)
    if not self.adversarial:
      return total, metrics | {"loss": total}
    target, estimate = judged
    real = self._judge(params["discriminator"], target)
    against, found = self._against(params["discriminator"], real, estimate, step)
    fake = self._judge(params["discriminator"], jax.lax.stop_gradient(estimate))
    caught = adversarial.discriminator_loss(real, fake)
    total = total + against
    return total + caught, metrics | found | {"discriminator": caught, "loss": total}

  def _discriminator_turn(self, params, batch, rng, step):
    """The discriminators' loss; no gradient goes through the sound."""
    del step
    _, _, judged = self._reconstruction(params["generator"], batch, rng)
    target, estimate = jax.lax.stop_gradient(judged)
    real, fake = (self._judge(params["discriminator"], x) for x in (target, estimate))
    loss = adversarial.discriminator_loss(real, fake)
    return loss, {"discriminator": loss}

  def _generator_turn(self, params, batch, rng, step):
    """The generator's loss against discriminators that stand still."""
    total, metrics, (target, estimate) = self._reconstruction(params["generator"], batch, rng)
    real = self._judge(params["discriminator"], target)
    against, found = self._against(params["discriminator"], real, estimate, step)
    total = total + against
    return total, metrics | found | {"loss": total}

  def _reconstruction(
    self, generator: Any, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, tuple[jax.Array, jax.Array]]:
    """Weighted errors and KL, metrics, and the (target, estimate) that discriminators compare."""
    audio, config = batch["audio"], self.model_config
    if not self.config.loss.train_encoder:
      # Its gradient would be thrown away; the norm that is logged must not count it either.
      generator = {**generator, "encoder": jax.lax.stop_gradient(generator["encoder"])}
    shape = (audio.shape[0], audio.shape[1] // config.hop_length, config.latent_dim)
    noise = jax.random.normal(rng, shape)
    estimate, mean, log_variance = self.model.apply({"params": generator}, audio, noise)
    kl = spectral.kl_loss(mean, log_variance)
    errors = self._spectral_errors if config.spectral else self._waveform_errors
    total, metrics, judged = errors(audio, estimate)
    total = total + self.config.loss.kl * kl
    metrics |= {
      "kl": kl,
      "posterior_std": jnp.mean(jnp.exp(0.5 * log_variance)),
      "latent_std": jnp.std(mean),
    }
    if config.clip_latents:
      # Of what the decoder heard; the paper has less than 0.1 % of it cut.
      latents = mean + jnp.exp(0.5 * log_variance) * noise
      metrics["clipped"] = jnp.mean((jnp.abs(latents) > LATENT_SCALE).astype(jnp.float32))
    return total, metrics, judged

  def _waveform_errors(self, audio, estimate):
    """Weighted errors of waveforms [B, T], metrics, and the pair that discriminators compare."""
    weights = self.config.loss
    stft = spectral.stft_loss(audio, estimate, tuple(map(tuple, weights.stft_resolutions)))
    return weights.stft * stft, {"stft": stft}, (audio, estimate)

  def _spectral_errors(self, audio, estimate):
    """The same of log magnitudes [B, F, N]: no phase is compared, and none is needed."""
    config = self.model_config
    target = spectral_codec.log_magnitudes(audio, config)
    weights_N = jnp.asarray(
      spectral_codec.bin_weights(config.n_fft, config.sample_rate, config.tilt)
    )
    error = spectral.spectrum_loss(target, estimate, weights_N)
    # 20 log10(e) dB a neper, over the bins of a spectrum.
    distance = 8.686 * jnp.mean(jnp.sqrt(jnp.mean(jnp.square(estimate - target), axis=-1) + 1e-8))
    total = self.config.loss.spectrum * error
    return total, {"spectrum": error, "log_spectral_distance": distance}, (target, estimate)

  def _judge(self, discriminator: Any, heard: jax.Array) -> list[Judgement]:
    """Judgements of waveforms, or of log magnitudes where the form is spectral."""
    return self.judges.apply({"params": discriminator}, heard)

  def _against(
    self, discriminator: Any, real: list[Judgement], estimate: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """The generator's weighted terms against discriminators that stand still."""
    weights = self.config.loss
    fake = self._judge(jax.lax.stop_gradient(discriminator), estimate)
    generator = adversarial.generator_loss(fake)
    matching = adversarial.feature_matching_loss(
      jax.lax.stop_gradient(real), fake, weights.relative_matching
    )
    # Multiplied, not branched: the discriminators learn from the start, the generator hears of them
    # only once they can judge.
    on = jnp.where(step >= weights.adversarial_from, 1.0, 0.0)
    total = on * (weights.adversarial * generator + weights.feature_matching * matching)
    return total, {"generator": generator, "feature_matching": matching}

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    del rng
    audio = batch["audio"]
    mean, _ = self.model.apply({"params": params["generator"]}, audio, method="encode")
    estimate = self.model.apply({"params": params["generator"]}, mean, method="decode")
    return {"audio/original": audio, "audio/reconstruction": estimate}

  makes = "audio"

  def made(self, params: Variables, batch: Batch, rng: jax.Array) -> jax.Array:
    """The reconstruction, float [B, T]."""
    return self.media(params, batch, rng)["audio/reconstruction"]

  def wanted(self, batch: Batch) -> jax.Array:
    """The audio itself, float [B, T]."""
    return batch["audio"]

  def export_params(self, params: Variables) -> Variables:
    """Encoder and decoder only; the discriminators serve training alone."""
    return params["generator"]

  def import_params(self, params: Variables) -> Variables:
    """The reverse of `export_params`: a run that begins with it has new discriminators."""
    return {"generator": params}
