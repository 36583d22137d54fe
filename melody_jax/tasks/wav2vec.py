"""Training of the semantic tokeniser's network (docs/spec.md, section 4, wav2vec 2.0)."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from melody_jax.errors import UserError
from melody_jax.losses import wav2vec as losses
from melody_jax.models import musical_features, wav2vec_checkpoint
from melody_jax.models.layers import config_from
from melody_jax.models.wav2vec import Wav2Vec, Wav2VecConfig
from melody_jax.parameter_rules import frozen_labels
from melody_jax.task import BaseTask, Batch, Metrics, Variables, WindowFeature


class Wav2VecTask(BaseTask):
  """Contrastive and diversity losses on hidden spans of audio windows.

  Reads from `config.loss`: mask_start_probability, mask_span (frames), n_distractors,
  contrastive_temperature, diversity_weight, gumbel_start, gumbel_end, gumbel_decay (the
  Gumbel temperature is start * decay ** step, not below end), freeze_targets (the feature
  encoder and the choice of codes stay as they were drawn), teacher_weight and
  teacher_visible (weight of the musical teacher's squared error, and how much of it frames that
  are not hidden get).
  """

  def __init__(self, config: ml_collections.ConfigDict):
    super().__init__(config)
    self.model_config = config_from(Wav2VecConfig, config.model)
    hop = self.model_config.hop
    self.n_frames = int(config.window_seconds * config.sample_rate) // hop
    # Whole frames: a rest of samples would be a frame of nothing but padding.
    self.n_samples = self.n_frames * hop
    size = self.model_config.teacher_size
    if size not in (0, musical_features.SIZE):
      raise UserError(f"model.teacher_size is {size}: it must be 0 or {musical_features.SIZE}")

  def input_features(self) -> dict[str, WindowFeature]:
    samples = int(self.config.window_seconds * self.config.sample_rate)
    return {"audio": WindowFeature((samples,), "float32")}

  def without_recomputation(self) -> "Wav2VecTask":
    return self.with_model(remat=False)

  def init(self, rng: jax.Array) -> Variables:
    audio = jnp.zeros((1, 2 * self.model_config.hop), jnp.float32)
    lengths, hidden = jnp.full((1,), 2, jnp.int32), jnp.zeros((1, 2), bool)
    # Two frames are the shortest input of every layer; parameters depend on no length.
    model = Wav2Vec(self.model_config)
    return model.init(rng, audio, lengths, hidden, jnp.ones(()), None)["params"]

  def public_params(self, path: str = "") -> Variables:
    return wav2vec_checkpoint.params_from_safetensors(path, self.model_config) if path else {}

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Contrastive and diversity loss of hidden frames, and the musical teacher's error.

    The batch holds `audio` float32 [B, samples]. Metrics are scalars: `loss`; `contrastive` (nats)
    and `diversity`, its parts; `accuracy` against the distractors; `perplexity` of the probable
    and `chosen_perplexity` of the chosen codes; with a teacher its error of hidden and of visible
    frames, over the targets' variance.
    """
    c, model_config = self.config.loss, self.model_config
    audio_BxS = batch["audio"][:, : self.n_samples]
    mask_rng, distractor_rng, gumbel_rng, dropout_rng = jax.random.split(rng, 4)
    lengths_B = jnp.full((audio_BxS.shape[0],), self.n_frames, jnp.int32)
    hidden_BxT = losses.span_mask(
      mask_rng, lengths_B, self.n_frames, c.mask_start_probability, c.mask_span
    )
    distractors = losses.sample_distractors(distractor_rng, hidden_BxT, c.n_distractors)
    if c.freeze_targets:
      # Its gradient would be thrown away; not computing it spares a fifth of the step.
      frozen = jax.lax.stop_gradient(params["feature_encoder"])
      params = {**params, "feature_encoder": frozen}
    # From the step, not from a state: a resumed run has the temperature it had.
    decayed = c.gumbel_start * c.gumbel_decay ** jnp.asarray(step, jnp.float32)
    out = Wav2Vec(model_config, deterministic=not train).apply(
      {"params": params},
      audio_BxS,
      lengths_B,
      hidden_BxT,
      jnp.maximum(decayed, c.gumbel_end),
      gumbel_rng if train else None,
      rngs={"dropout": dropout_rng},
    )
    contrastive, accuracy = losses.contrastive_loss(
      out["context"],
      out["targets"],
      out["codes"],
      losses.distractor_counts(distractors),
      hidden_BxT,
      c.contrastive_temperature,
    )
    perplexity_G = losses.code_perplexity(out["probabilities"], hidden_BxT)
    diversity = losses.diversity_loss(perplexity_G, model_config.n_codes)
    chosen = jax.nn.one_hot(out["codes"], model_config.n_codes)
    loss = contrastive + c.diversity_weight * diversity
    taught: Metrics = {}
    if model_config.teacher_size:
      taught = self._teacher_errors(audio_BxS, out["teacher"], hidden_BxT)
      share = c.teacher_visible
      error = taught["teacher_hidden"] + share * taught["teacher_visible"]
      loss = loss + c.teacher_weight * error / (1.0 + share)
    return loss, taught | {
      "loss": loss,
      "contrastive": contrastive,
      "diversity": diversity,
      "accuracy": accuracy,
      "perplexity": jnp.mean(perplexity_G),
      "chosen_perplexity": jnp.mean(losses.code_perplexity(chosen, hidden_BxT)),
    }

  def _teacher_errors(
    self, audio_BxS: jax.Array, guess_BxTxM: jax.Array, hidden_BxT: jax.Array
  ) -> Metrics:
    """Mean squared error of hidden and of visible frames, over the targets' variance."""
    config = self.model_config
    target = musical_features.musical_features(audio_BxS, config.sample_rate, config.hop)
    error_BxT = jnp.sum(jnp.square(guess_BxTxM.astype(jnp.float32) - target), axis=-1)
    # 1 is then the error of a guess that knows only the batch's mean.
    variance = jnp.sum(jnp.var(target, axis=(0, 1))) + 1e-3

    def mean(where: jax.Array) -> jax.Array:
      return jnp.sum(jnp.where(where, error_BxT, 0.0)) / jnp.maximum(jnp.sum(where), 1)

    return {
      "teacher_hidden": mean(hidden_BxT) / variance,
      "teacher_visible": mean(~hidden_BxT) / variance,
    }

  def optimizer_labels(self, params: Variables) -> Any:
    """Statistics of a frozen batch norm never train; nor do targets that the config freezes."""
    parts = []
    if self.model_config.conv_norm == "batch":
      parts.append("statistics")
    if self.config.loss.freeze_targets:
      parts.append("targets")
    return frozen_labels(params, *parts)
