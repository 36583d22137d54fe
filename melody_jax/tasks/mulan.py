"""Training of MuLan's two towers by symmetric InfoNCE over the global batch.

docs/spec.md, section 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from melody_jax.losses.contrastive import fingerprint, info_nce
from melody_jax.models import mulan
from melody_jax.models.layers import config_from
from melody_jax.task import BaseTask, Batch, Metrics, Variables, WindowFeature

_BUCKETS = (16, 24, 32, 48)  # token counts that short captions are padded to
_ROWS = 16  # captions embedded at once
_REMEMBERED = 100_000  # captions, about 150 MB


class FrozenTextFeatures:
  """Outputs of a frozen text encoder, computed once per distinct caption.

  Captions repeat all through training and the encoder never changes, so on a CPU this
  takes the text tower's larger half out of the step. Padding does not reach the outputs,
  so a caption is embedded at the smallest sufficient length.
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
    """Ids and mask [B, N] -> float32 [B, text_width]."""
    keys = [ids.tobytes() for ids in text_ids]
    if len(self._seen) > _REMEMBERED:
      self._seen.clear()
    fresh = {key: i for i, key in enumerate(keys) if key not in self._seen}
    rows = sorted(fresh.values(), key=lambda i: int(text_mask[i].sum()))
    for start in range(0, len(rows), _ROWS):
      block = rows[start : start + _ROWS]
      longest = int(text_mask[block].sum(axis=1).max())
      n = min((b for b in (*_BUCKETS, self._length) if b >= longest), default=self._length)
      padded = block + block[:1] * (_ROWS - len(block))
      features = np.asarray(self._embed(self._params, text_ids[padded, :n], text_mask[padded, :n]))
      self._seen.update((keys[i], features[j]) for j, i in enumerate(block))
    return np.stack([self._seen[key] for key in keys]).astype(np.float32)


class MuLanTask(BaseTask):
  """Batch: `audio` [B, samples], `text_ids` and `text_mask` [B, N].

  Where the text encoder is frozen a batch may also hold `text_features` float32 [B, D], its
  outputs, which `prepare` adds on the host; without them the step computes them.
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
      "text_ids": WindowFeature((c.text_length,), "int32"),
      "text_mask": WindowFeature((c.text_length,), "bool"),
    }

  def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the frozen text encoder's features to a host batch; others pass unchanged."""
    if not self.model_config.text_frozen:
      return batch
    if self._features is None:
      self._features = FrozenTextFeatures(self.model_config)
    features = self._features(batch["text_ids"], batch["text_mask"])
    return {**batch, "text_features": features}

  def init(self, rng: jax.Array) -> Variables:
    params = mulan.init_params(rng, self.model_config)
    c = self.model_config
    if c.text_init and not c.text_frozen:
      loaded = mulan.text_body_params(c)
      boxed = params[mulan.TEXT_BODY]
      values = jax.tree.leaves(jax.tree.map(jnp.asarray, loaded))
      params[mulan.TEXT_BODY] = jax.tree.unflatten(jax.tree.structure(boxed), values)
    return params

  def loss(
    self, params: Variables, batch: Batch, rng: jax.Array, step: jax.Array, train: bool = True
  ) -> tuple[jax.Array, Metrics]:
    """Symmetric InfoNCE; metrics also hold in-batch recall and the logit scale."""
    del step
    music_BxC, text_BxC = self._embed(params, batch, rng, train)
    scale = self.model.apply({"params": params}, method=mulan.MuLan.scale)
    labels = fingerprint(batch["text_ids"])
    loss, metrics = info_nce(music_BxC, text_BxC, scale, labels)
    return loss, {"loss": loss, "scale": scale, **metrics}

  def media(self, params: Variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
    """The batch's music-to-text cosines, scaled from [-1, 1] to [0, 1]."""
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
      params = mulan.with_text_body(params, self.model_config)
      features_BxD = call(mulan.MuLan.text_features, batch["text_ids"], batch["text_mask"])
    return music_BxC, call(mulan.MuLan.text_head, features_BxD)
