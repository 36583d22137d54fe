"""Losses of networks that compute in bfloat16: float32 from the last layer on."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.losses import adversarial, contrastive, spectral
from melody_jax.losses import wav2vec as wav2vec_losses
from melody_jax.task import TASKS, make_task
from tests.configs import load_config, waveform_vae
from tests.training.mesh_step import random_batch

# Last layers: paths of modules whose results a loss compares.
HEADS = {
  "mulan": {"music_head", "text_outer"},
  "wav2vec": {"context_projection", "target_projection", "teacher"},
  "lm": {"head/projection"},
  "dpd": {"out"},
  "vae": {"encoder/posterior", "decoder/head", *(f"band_{i}/head" for i in range(4))},
  "vae_waveform": {
    "encoder/posterior", "decoder/head", "period_2/head", "period_3/head", "spectrogram_64/head",
  },
}  # fmt: skip


def rounded(x):
  """Share of values that bfloat16 has."""
  return np.mean(np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32)) == np.asarray(x))


@pytest.mark.parametrize("name", [*TASKS, "vae_waveform"])
def test_last_layers_hand_over_what_they_accumulated(name):
  config = waveform_vae() if name == "vae_waveform" else load_config(name, "tiny")
  config.model.dtype = "bfloat16"
  if "discriminator" in config:
    with config.discriminator.unlocked():
      config.discriminator.dtype = "bfloat16"
  task = make_task(config)
  params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
  # Away from zero: some last layers are born so.
  params = jax.tree.map(lambda p: p + 0.05 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
  batch = random_batch(task, 2)

  @jax.jit
  def heads(params):
    found = {}

    def watch(call, args, kwargs, context):
      result = call(*args, **kwargs)
      path = "/".join(context.module.path)
      if context.method_name == "__call__" and path in HEADS[name]:
        found[path] = result
      return result

    with nn.intercept_methods(watch):
      loss, metrics = task.loss(params, batch, jax.random.key(1), jnp.zeros((), jnp.int32))
    return found, loss, metrics

  found, loss, metrics = heads(params)
  # A model may lack the teacher; it has no last layer that nobody listed here by accident.
  assert found.keys() >= HEADS[name] - {"teacher"}
  for path, result in found.items():
    assert result.dtype == jnp.float32, path
    assert rounded(result) < 0.1, f"{path} was rounded to bfloat16 before the loss"
  assert loss.dtype == jnp.float32
  assert all(jnp.asarray(value).dtype == jnp.float32 for value in metrics.values())


def cross_entropy(logits, labels):
  """By its definition, in float64."""
  logits = np.asarray(logits, np.float64)
  top = logits.max(-1, keepdims=True)
  total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
  return np.mean(total - np.take_along_axis(logits, labels[..., None], -1)[..., 0])


def test_cross_entropy_of_a_bfloat16_network():
  """Within float32 of the float64 value; logits rounded to bfloat16 are a thousand times worse."""
  config = load_config("lm", "tiny")
  config.model.dtype = "bfloat16"
  config.conditioning.style_dropout = 0.0
  task = make_task(config)
  params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
  # As confident as a trained model: large logits are rounded coarsely.
  kernel = params["head"]["projection"]["kernel"]
  params["head"]["projection"]["kernel"] = 12.0 * kernel
  batch = random_batch(task, 4)
  from melody_jax.models import lm

  logits = jax.jit(lambda p: lm.forward(task.model, p, *batch_tokens(batch)))(params)
  loss = jax.jit(lambda p: task.loss(p, batch, jax.random.key(0), 0, train=False)[0])(params)
  exact = cross_entropy(logits, batch["semantic_tokens"])
  coarse = cross_entropy(logits.astype(jnp.bfloat16).astype(jnp.float32), batch["semantic_tokens"])
  assert abs(float(loss) - exact) < 1e-6 * exact
  assert abs(coarse - exact) > 1e-5 * exact


def batch_tokens(batch):
  return batch["style_tokens"], batch["semantic_tokens"]


def _pairs(seed, *shapes):
  rng = np.random.default_rng(seed)
  # Nearby numbers, as a good model's are.
  first = [rng.normal(size=s) for s in shapes]
  return first, [x + 1e-3 * rng.normal(size=x.shape) for x in first]


@pytest.mark.parametrize("loss", ["matching", "least_squares", "stft", "spectrum", "kl"])
def test_bfloat16_arguments_are_not_subtracted_as_such(loss):
  """Each loss of bfloat16 arrays is that of the same values in float64, to float32's rounding."""
  (a, b), (c, d) = _pairs(0, (2, 4000), (2, 4000))
  a, b, c, d = (jnp.asarray(x).astype(jnp.bfloat16) for x in (a, b, c, d))
  e, f, g, h = (np.asarray(x.astype(jnp.float32), np.float64) for x in (a, b, c, d))
  if loss == "matching":
    found = adversarial.feature_matching_loss([(a, [b])], [(c, [d])])
    expected = 0.5 * (np.mean(np.abs(e - g)) + np.mean(np.abs(f - h)))
  elif loss == "least_squares":
    found = adversarial.discriminator_loss([(a, [])], [(c, [])])
    expected = np.mean((e - 1) ** 2) + np.mean(g**2)
  elif loss == "stft":
    found = spectral.stft_loss(a, c, ((64, 32, 16),))
    expected = spectral.stft_loss(jnp.asarray(e), jnp.asarray(g), ((64, 32, 16),))
  elif loss == "spectrum":
    ones = jnp.ones(4000)
    found = spectral.spectrum_loss(a[:, None], c[:, None], ones)
    expected = np.mean((e - g) ** 2)
  else:
    found = spectral.kl_loss(a, c)
    expected = np.mean(0.5 * (e**2 + np.exp(g) - 1 - g))
  assert found.dtype == jnp.float32
  assert float(found) == pytest.approx(float(expected), rel=2e-5)


def test_contrastive_losses_of_bfloat16_vectors_are_float32():
  rng = np.random.default_rng(0)
  x, y = (jnp.asarray(rng.normal(size=(8, 16))).astype(jnp.bfloat16) for _ in range(2))
  exact = [jnp.asarray(v, jnp.float32) for v in (x, y)]
  scale = jnp.asarray(20.0)
  assert float(contrastive.info_nce(x, y, scale)[0]) == float(
    contrastive.info_nce(*exact, scale)[0]
  )
  mask = jnp.ones((1, 8), bool)
  rest = (jnp.arange(8)[None, :, None], jnp.ones((1, 8, 8)), mask, 0.1)
  found, _ = wav2vec_losses.contrastive_loss(x[None], y[None], *rest)
  expected, _ = wav2vec_losses.contrastive_loss(exact[0][None], exact[1][None], *rest)
  assert found.dtype == jnp.float32 and float(found) == float(expected)
