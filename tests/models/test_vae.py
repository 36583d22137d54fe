"""The codec: shapes, its start as a low-pass, chunked decoding."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.models import vae
from melody_jax.models.discriminator import DiscriminatorConfig, Discriminators
from melody_jax.task import make_task
from tests.configs import load_config

FRAME = vae.VAEConfig(
  latent_dim=8,
  encoder_strides=(48,),
  encoder_widths=(16,),
  encoder_blocks=(1,),
  gain_edges=(0, 12, 48),
  shape_bins=4,
  decoder="frame",
  decoder_width=16,
  decoder_blocks=1,
)
HIFIGAN = vae.VAEConfig(
  latent_dim=6,
  clip_latents=True,
  encoder_strides=(4, 6),
  encoder_widths=(8, 16),
  encoder_kernels=(9, 13),
  encoder_blocks=(2, 1),
  decoder="hifigan",
  decoder_width=16,
  upsample_rates=(6, 4),
  upsample_widths=(8, 4),
  upsample_kernels=(13, 5),
  resblock_kernels=(3,),
)


def build(config, samples=48 * 20):
  model = vae.VAE(config)
  audio = 0.3 * jax.random.normal(jax.random.key(0), (2, samples))
  noise = jnp.zeros((2, samples // config.hop_length, config.latent_dim))
  return model, nn.meta.unbox(model.init(jax.random.key(1), audio, noise)), audio, noise


@pytest.mark.parametrize("config", [FRAME, HIFIGAN], ids=["frame", "hifigan"])
def test_shapes_and_gradients(config):
  model, variables, audio, noise = build(config)

  def loss(v):
    estimate, mean, log_variance = model.apply(v, audio, noise)
    assert estimate.shape == audio.shape
    assert mean.shape == log_variance.shape == noise.shape
    return jnp.mean(jnp.square(estimate - audio)) + jnp.mean(jnp.square(mean))

  grads = jax.tree.leaves(jax.jit(jax.grad(loss))(variables))
  assert all(np.isfinite(g).all() for g in grads)
  used = sum(float(jnp.abs(g).sum()) > 0 for g in grads)
  assert used >= len(grads) - 2, "only the log-variance may be without a gradient"


def test_frame_codec_starts_as_a_low_pass():
  config = vae.VAEConfig(
    latent_dim=16,
    encoder_strides=(48,),
    encoder_widths=(8,),
    encoder_blocks=(0,),
    gain_edges=(0, 2, 4, 8, 48),
    shape_bins=12,
    decoder="frame",
    decoder_width=8,
    decoder_blocks=0,
  )
  t = np.arange(48 * 40)
  low = (0.2 * np.sin(2 * np.pi * t / 200.0)).astype(np.float32)[None]
  model = vae.VAE(config)
  variables = nn.meta.unbox(model.init(jax.random.key(0), low, jnp.zeros((1, 40, 16))))
  for scope, name in (("encoder", "posterior"), ("decoder", "bins")):
    layer = variables["params"][scope][name]
    layer["kernel"] = jnp.zeros_like(layer["kernel"])
  y, _, _ = model.apply(variables, low, jnp.zeros((1, 40, 16)))
  error = np.square(np.asarray(y)[0, 96:-96] - low[0, 96:-96]).mean() / np.square(low).mean()
  assert error < 1e-3


def test_chunked_decoding_equals_whole():
  model, variables, audio, _ = build(FRAME, 48 * 60)
  mean, _ = model.apply(variables, audio, method="encode")
  whole = model.apply(variables, mean, method="decode")
  reach = 6  # frames: stem 1, one block of kernel 7 adds 3, overlap-add 1, and one to spare
  part = model.apply(variables, mean[:, 20 - reach : 40 + reach], method="decode")
  np.testing.assert_allclose(
    part[:, reach * 48 : -reach * 48], whole[:, 20 * 48 : 40 * 48], atol=1e-5
  )


def test_gains_bound_the_latents_and_are_taken_back():
  center, sigma, gain = jnp.zeros(3), jnp.ones(3), jnp.array([2.0, 1.0, 0.5])
  mean = jnp.array([[[9.0, 1.5, -1.5]]])
  scaled = vae.scale_latents(mean, center, sigma, gain)
  np.testing.assert_allclose(scaled[0, 0], [2.0, 0.5, -0.25])
  back = vae.unscale_latents(scaled, center, sigma, gain)
  np.testing.assert_allclose(back[0, 0], [3.0, 1.5, -1.5])


def test_latents_are_scaled_into_range():
  sigma = jnp.asarray([0.5, 2.0])
  center = jnp.asarray([0.1, -0.2])
  mean = jnp.asarray([[[0.3, -1.0], [9.0, -9.0]]])
  scaled = vae.scale_latents(mean, center, sigma)
  assert float(jnp.abs(scaled).max()) <= 1.0
  np.testing.assert_allclose(
    vae.unscale_latents(scaled, center, sigma)[0, 0], mean[0, 0], rtol=1e-6
  )


def test_the_decoder_hears_clipped_samples():
  """z = mean + std eps, then clip(z / 3, -1, 1): inside the network and for the DPD alike."""
  model, variables, audio, _ = build(HIFIGAN)
  mean, log_variance = model.apply(variables, audio, method="encode")
  noise = 6.0 * jax.random.normal(jax.random.key(3), mean.shape)
  estimate, *_ = model.apply(variables, audio, noise)
  z = mean + jnp.exp(0.5 * log_variance) * noise
  heard = np.clip(np.asarray(z) / 3.0, -1.0, 1.0)
  assert (np.abs(heard) == 1.0).any()
  decoder = vae.HifiGanDecoder(HIFIGAN)
  expected = decoder.apply({"params": variables["params"]["decoder"]}, heard)
  np.testing.assert_allclose(estimate, expected, atol=1e-5)
  zeros, ones = jnp.zeros(z.shape[-1]), jnp.ones(z.shape[-1])
  dpd = vae.scale_latents(z, zeros, ones)
  np.testing.assert_allclose(dpd, heard, atol=1e-6)
  again = model.apply(variables, vae.unscale_latents(dpd, zeros, ones), method="decode")
  np.testing.assert_allclose(again, estimate, atol=1e-5)


def test_paper_form_is_the_appendix():
  """Rates, widths and kernels, read from the parameters themselves."""
  task = make_task(load_config("vae", "paper"))
  shapes = nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))["generator"]
  c = task.model_config
  assert c.encoder_strides == (2, 3, 4, 4) and c.upsample_rates == (4, 4, 3, 2)
  assert c.clip_latents and c.hop_length == 96
  down = [shapes["encoder"][f"down_{i}"]["kernel"].shape for i in range(4)]
  assert [(k, width) for k, _, width in down] == [(5, 32), (7, 64), (9, 128), (9, 256)]
  up = [shapes["decoder"][f"up_{i}"]["kernel"].shape for i in range(4)]
  assert [(k, width) for k, _, width in up] == [(9, 768), (9, 384), (5, 192), (7, 96)]
  assert shapes["encoder"]["posterior"]["kernel"].shape == (256, 2 * 16)


def test_bfloat16_keeps_the_waveform():
  """First and last layers are float32: what is lost lies far below the sound, quiet or loud."""
  model, variables, audio, noise = build(HIFIGAN)
  rounded = vae.VAE(dataclasses.replace(HIFIGAN, dtype="bfloat16"))
  for gain in (1.0, 1e-2):
    outputs = [m.apply(variables, gain * audio, noise) for m in (model, rounded)]
    for exact, found in zip(*outputs, strict=True):
      assert found.dtype == jnp.float32
      error = jnp.sum(jnp.square(exact - found)) / jnp.sum(jnp.square(exact))
      assert 0.0 < float(error) < 10**-3.5
      # Not rounded to bfloat16 in the end: most values have further digits.
      assert np.mean(found.astype(jnp.bfloat16).astype(jnp.float32) == found) < 0.05


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"gain_edges": (0, 12, 40)}, "end at the only stride"),
    ({"shape_bins": 7}, "do not fit latent_dim"),
  ],
)
def test_sizes_that_cannot_work_are_refused(change, match):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(FRAME, **change)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"upsample_rates": (6, 5)}, "do not multiply to 24"),
    ({"upsample_kernels": (13,)}, "upsample_kernels differ in length"),
    ({"encoder_kernels": (9,)}, "encoder_kernels and encoder_strides differ"),
    ({"encoder_kernels": (9, 5)}, "shorter than its stride"),
  ],
)
def test_hifigan_sizes_that_cannot_work_are_refused(change, match):
  with pytest.raises(ValueError, match=match):
    dataclasses.replace(HIFIGAN, **change)


def test_discriminators_return_logits_and_maps():
  config = DiscriminatorConfig(
    periods=(2, 3), period_channels=(4, 4), resolutions=((64, 8, 30),), resolution_channels=4
  )
  audio = jax.random.normal(jax.random.key(0), (2, 601))
  judgements, _ = Discriminators(config).init_with_output(jax.random.key(1), audio)
  assert len(judgements) == 3
  for logits, maps in judgements:
    assert logits.shape[0] == 2 and len(maps) >= 2
