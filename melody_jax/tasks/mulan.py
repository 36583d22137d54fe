"""Training of MuLan's two towers by symmetric InfoNCE over the global batch.

docs/spec.md, section 3.
"""

from typing import Any

import jax
import ml_collections
import numpy as np

from melody_jax import text
from melody_jax.errors import UserError
from melody_jax.losses.contrastive import fingerprint, info_nce
from melody_jax.models import mulan
from melody_jax.models.layers import config_from
from melody_jax.task import BaseTask, Batch, Metrics, Tokenize, Variables, WindowFeature

_BUCKETS = (16, 24, 32, 48)  # token counts that short captions are padded to
_ROWS = 16  # captions embedded at once
_REMEMBERED = 100_000  # captions, about 150 MB


class FrozenTextFeatures:
  """Outputs of a frozen text encoder, computed once for each different caption.

  Captions repeat in training and the encoder never changes. On a CPU this takes the larger half of
  the text tower out of the step. Padding does not change the outputs, so each caption is embedded
  at the smallest length that holds it.

  Args:
    config: Sizes; `text_init` names the encoder.

  Raises:
    UserError: The public checkpoint is not installed.
  """

  def __init__(self, config: mulan.MuLanConfig):
    # On the device once: numpy parameters would be copied there at every call.
    self._params = jax.device_put({mulan.TEXT_BODY: mulan.text_body_params(config)})
    self._length = config.text_length
    self._seen: dict[bytes, np.ndarray] = {}
    model = mulan.MuLan(config)

    def embed(params, ids, mask):
      return model.apply({"params": params}, ids, mask, method=mulan.MuLan.text_features)

    self._embed = jax.jit(embed)

  def __call__(self, text_ids: np.ndarray, text_mask: np.ndarray) -> np.ndarray:
    """Ids int32 [B, N] and mask bool [B, N] -> pooled features, float32 [B, text_width]."""
    keys = [ids.tobytes() for ids in text_ids]
    # All at once: the captions of an epoch come back soon, and in no order that would favour some.
    if len(self._seen) > _REMEMBERED:
      self._seen.clear()
    fresh = {key: i for i, key in enumerate(keys) if key not in self._seen}
    # Short captions together: a block is as long as its longest row.
    rows = sorted(fresh.values(), key=lambda i: int(text_mask[i].sum()))
    for start in range(0, len(rows), _ROWS):
      block = rows[start : start + _ROWS]
      longest = int(text_mask[block].sum(axis=1).max())
      # Few lengths and one number of rows, so that few programs are compiled.
      n = min((b for b in (*_BUCKETS, self._length) if b >= longest), default=self._length)
      padded = block + block[:1] * (_ROWS - len(block))
      features = np.asarray(self._embed(self._params, text_ids[padded, :n], text_mask[padded, :n]))
      self._seen.update((keys[i], features[j]) for j, i in enumerate(block))
    return np.stack([self._seen[key] for key in keys]).astype(np.float32)


class MuLanTask(BaseTask):
  """Training of MuLan.

  A batch holds `audio` float32 [B, samples] in [-1, 1], `text_ids` int32 [B, N] and `text_mask`
  bool [B, N]. If the text encoder is frozen it may also hold `text_features` float32 [B, D], the
  outputs of the encoder. `prepare` adds them on the host; without them the step computes them.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    super().__init__(config)
    self.model_config = config_from(mulan.MuLanConfig, config.model)
    self.model = mulan.MuLan(self.model_config)
    self._features: FrozenTextFeatures | None = None

  def input_features(self) -> dict[str, WindowFeature]:
    c = self.model_config
    return {
      "audio": WindowFeature((c.window_samples,), "float32"),
      "text_ids": WindowFeature((c.text_length,), "int32", c.text_vocab),
      "text_mask": WindowFeature((c.text_length,), "bool"),
    }

  def tokenizer(self) -> Tokenize:
    c = self.model_config
    tokenizer = text.load_tokenizer(c.text_length, c.text_init)
    if tokenizer.vocab_size > c.text_vocab:
      raise UserError(
        f"the tokenizer of text_init={c.text_init!r} has {tokenizer.vocab_size} words,"
        f" config.model.text_vocab is {c.text_vocab}: set it to that"
      )
    return tokenizer

  def without_recomputation(self) -> "MuLanTask":
    return self.with_model(remat=False)

  def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the frozen text encoder's features to a host batch; others pass unchanged."""
    if not self.model_config.text_frozen:
      return batch
    if self._features is None:
      self._features = FrozenTextFeatures(self.model_config)
    features = self._features(batch["text_ids"], batch["text_mask"])
    return {**batch, "text_features": features}

  def init(self, rng: jax.Array) -> Variables:
    return mulan.init_params(rng, self.model_config)

  def public_params(self, path: str = "") -> Variables:
    return super().public_params(path) if path else mulan.public_params(self.model_config)

  def export_files(self) -> dict[str, str]:
    """The vocabulary of a trained text encoder that came from a path: the bundle brings its own."""
    c = self.model_config
    if c.text_init in ("", text.MINILM) or c.text_frozen:
      return {}
    return {text.TOKENIZER: text.load_tokenizer(c.text_length, c.text_init).page}

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Symmetric InfoNCE; metrics also hold in-batch recall and the logit scale."""
    del step
    music_BxC, text_BxC = self._embed(params, batch, rng, train)
    scale = self.model.apply({"params": params}, method=mulan.MuLan.scale)
    # Equal captions are no negatives of each other.
    labels = fingerprint(batch["text_ids"])
    loss, metrics = info_nce(music_BxC, text_BxC, scale, labels)
    return loss, {"loss": loss, "scale": scale, **metrics}

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """Makes a picture of all music-to-text cosines, [B, B], scaled from [-1, 1] to [0, 1]."""
    music_BxC, text_BxC = self._embed(params, batch, rng, train=False)
    return {"image/cosines": 0.5 + 0.5 * music_BxC @ text_BxC.T}

  def _embed(
    self, params: Variables, batch: Batch, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    augment_rng, dropout_rng = jax.random.split(rng)
    rngs = {"augment": augment_rng, "dropout": dropout_rng}

    def call(method: Any, *args: Any) -> jax.Array:
      variables = {"params": params}
      return self.model.apply(variables, *args, not train, method=method, rngs=rngs)

    music_BxC = call(mulan.MuLan.audio, batch["audio"])
    if "text_features" in batch:
      features_BxD = batch["text_features"]
    else:
      # Outside the gradient: a frozen body is no parameter of the run.
      params = mulan.with_text_body(params, self.model_config)
      features_BxD = call(mulan.MuLan.text_features, batch["text_ids"], batch["text_mask"])
    return music_BxC, call(mulan.MuLan.text_head, features_BxD)
