"""Training the VAE-GAN: reconstruction and KL, then an adversarial phase.

One gradient serves both players: the generator's terms see the discriminators' stopped
parameters, the discriminators' term sees the generator's stopped output.
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
  SpectrumDiscriminators,
)
from melody_jax.models.layers import config_from
from melody_jax.models.vae import VAE, VAEConfig
from melody_jax.task import BaseTask, Batch, Metrics, Variables, WindowFeature


class VAETask(BaseTask):
  """Parameters: {"generator": VAE, "discriminator": Discriminators} (the latter where weighted)."""

  def __init__(self, config: ml_collections.ConfigDict):
    super().__init__(config)
    self.model_config = config_from(VAEConfig, config.model)
    self.model = VAE(self.model_config)
    judges = config_from(DiscriminatorConfig, config.discriminator)
    self.judges = (SpectrumDiscriminators if self.model_config.spectral else Discriminators)(judges)
    self.samples = round(config.window_seconds * config.sample_rate)
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

  def optimizer_labels(self, params: Variables) -> Any:
    if self.config.loss.train_encoder:
      return None
    # With a fixed encoder the data sets that were encoded by it stay valid.
    frozen = jax.tree.map(lambda _: "default", params)
    frozen["generator"]["encoder"] = jax.tree.map(
      lambda _: "frozen", params["generator"]["encoder"]
    )
    return frozen

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Reconstruction, KL and the terms of both players, a scalar (docs/spec.md, section 7.2).

    Metrics, scalars: `loss`; `kl`; `posterior_std` and `latent_std`, spreads of noise and of means;
    the errors of the codec's form; where judges are weighted also `generator`, `feature_matching`
    and `discriminator`.
    """
    del train  # the posterior is sampled in evaluation too: the DPD's latents are not exact either
    weights = self.config.loss
    audio = batch["audio"]
    shape = (
      audio.shape[0],
      audio.shape[1] // self.model_config.hop_length,
      self.model_config.latent_dim,
    )
    noise = jax.random.normal(rng, shape)
    estimate, mean, log_variance = self.model.apply({"params": params["generator"]}, audio, noise)
    kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
    if self.model_config.spectral:
      total, metrics, (real, fake) = self._spectral_errors(audio, estimate)
    else:
      total, metrics, (real, fake) = self._waveform_errors(audio, estimate)
    total = total + weights.kl * kl
    metrics |= {
      "kl": kl,
      "posterior_std": jnp.mean(jnp.exp(0.5 * log_variance)),
      "latent_std": jnp.std(mean),
    }
    if self.adversarial:
      adversarial_total, adversarial_metrics = self._adversarial(
        params["discriminator"], real, fake, step
      )
      total, metrics = total + adversarial_total, metrics | adversarial_metrics
    return total, metrics | {"loss": total}

  def _waveform_errors(self, audio, estimate):
    """Weighted errors of a waveform, metrics, and the pair that discriminators compare."""
    weights = self.config.loss
    mel = spectral.mel_loss(
      audio, estimate, self.config.sample_rate, tuple(map(tuple, weights.mel_resolutions))
    )
    waveform = spectral.waveform_loss(audio, estimate)
    total = weights.mel * mel + weights.waveform * waveform
    return total, {"mel": mel, "waveform": waveform}, (audio, estimate)

  def _spectral_errors(self, audio, estimate):
    """The same of log magnitudes [B, F, N]: no phase is compared, and none is needed."""
    config = self.model_config
    target = spectral_codec.log_magnitudes(audio, config)
    weights_N = jnp.asarray(
      spectral_codec.bin_weights(config.n_fft, config.sample_rate, config.tilt)
    )
    # The mean of a bin's logarithm is what squares aim at; absolute errors aim at its median and
    # let go of faint lines that are there less than half of the time.
    error = jnp.mean(jnp.square((estimate - target) * weights_N[None, None, :]))
    # 20 log10(e) dB a neper, over the bins of a spectrum.
    distance = 8.686 * jnp.mean(jnp.sqrt(jnp.mean(jnp.square(estimate - target), axis=-1) + 1e-8))
    total = self.config.loss.spectrum * error
    return total, {"spectrum": error, "log_spectral_distance": distance}, (target, estimate)

  def _adversarial(self, judge_params, audio, estimate, step):
    """Both players' terms over waveforms, or over log magnitudes where the form is spectral."""
    weights = self.config.loss
    # The generator must not make its judges worse, so for its terms they are constants.
    frozen = jax.lax.stop_gradient(judge_params)

    def judge(p, x):
      return self.judges.apply({"params": p}, x)

    real, fake = judge(judge_params, audio), judge(frozen, estimate)
    generator = adversarial.generator_loss(fake)
    matching = adversarial.feature_matching_loss(jax.lax.stop_gradient(real), fake)
    discriminator = adversarial.discriminator_loss(
      real, judge(judge_params, jax.lax.stop_gradient(estimate))
    )
    # Multiplied, not branched: the discriminators learn from the start, the generator hears of them
    # only once they can judge.
    on = jnp.where(step >= weights.adversarial_from, 1.0, 0.0)
    total = (
      on * (weights.adversarial * generator + weights.feature_matching * matching) + discriminator
    )
    return total, {
      "generator": generator,
      "feature_matching": matching,
      "discriminator": discriminator,
    }

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    del rng
    audio = batch["audio"]
    mean, _ = self.model.apply({"params": params["generator"]}, audio, method="encode")
    estimate = self.model.apply({"params": params["generator"]}, mean, method="decode")
    return {"audio/original": audio, "audio/reconstruction": estimate}

  def export_params(self, params: Variables) -> Variables:
    """Encoder and decoder only; the discriminators serve training alone."""
    return params["generator"]

  def import_params(self, params: Variables) -> Variables:
    """The reverse of `export_params`: a run that begins with it has new discriminators."""
    return {"generator": params}
