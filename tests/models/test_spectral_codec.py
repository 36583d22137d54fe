"""The codec without phase: its transform, the search for a phase, its birth, its reach."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.models import spectral_codec as codec
from melody_jax.models import vae

RATE = 24_000
CONFIG = vae.VAEConfig(
  latent_dim=6,
  encoder_strides=(48,),
  encoder_widths=(8,),
  encoder_blocks=(1,),
  decoder="spectral",
  decoder_width=8,
  decoder_blocks=1,
  n_fft=128,
  window_std=24.0,
  stft_hop=24,
  phase_iterations=3,
)


def tones(samples, *hz):
  t = np.arange(samples) / RATE
  return sum(0.2 * np.sin(2 * np.pi * f * t + f) for f in hz).astype(np.float32)[None]


@pytest.fixture(scope="module")
def model():
  """(VAE, variables) whose residual blocks say something."""
  net = vae.VAE(CONFIG)
  audio, noise = jnp.zeros((1, 480)), jnp.zeros((1, 10, 6))
  variables = nn.meta.unbox(net.init(jax.random.key(0), audio, noise))
  head = variables["params"]["decoder"]["head"]
  head["kernel"] = 0.05 * jax.random.normal(jax.random.key(1), head["kernel"].shape)
  return net, variables


def test_stft_against_numpy():
  audio = np.random.default_rng(0).standard_normal((1, 240)).astype(np.float32)
  window = codec.gaussian_window(128, 24.0)
  found = np.asarray(codec.stft(audio, window, 24))
  assert found.shape == (1, 10, 65)
  padded = np.pad(audio[0], (128, 128))
  for i in range(10):
    middle = 128 + 24 * i + 12  # of the hop
    expected = np.fft.rfft(padded[middle - 64 : middle + 64] * window)
    np.testing.assert_allclose(found[0, i], expected, atol=1e-4)
  back = codec.istft(found, window, 24)
  np.testing.assert_allclose(back, audio, atol=1e-4)


def test_a_phase_is_found():
  config = dataclasses.replace(
    CONFIG, n_fft=1024, window_std=170.0, stft_hop=160, encoder_strides=(160,), phase_iterations=16
  )
  audio = tones(160 * 100, 440.0, 550.3, 660.0)
  wanted = codec.log_magnitudes(audio, config)
  found = codec.find_phase(wanted, config)
  assert found.shape == audio.shape
  got = codec.log_magnitudes(found, config)
  inside = slice(10, -10)
  error = np.linalg.norm(np.exp(got) - np.exp(wanted), axis=-1)[:, inside]
  size = np.linalg.norm(np.exp(wanted), axis=-1)[:, inside]
  assert float((error / size).mean()) < 0.25  # about -14 dB, as at nano
  start = codec.find_phase(wanted, dataclasses.replace(config, phase_iterations=1))
  worse = np.linalg.norm(np.exp(codec.log_magnitudes(start, config)) - np.exp(wanted), axis=-1)
  # Tones of the bins agree with steady music from the start; iterations do the rest.
  assert float((worse[:, inside] / size).mean()) > 1.3 * float((error / size).mean())


def test_silence_stays_silent():
  quiet = codec.find_phase(codec.log_magnitudes(jnp.zeros((1, 480)), CONFIG), CONFIG)
  assert float(jnp.abs(quiet).max()) < 1e-3


def test_a_part_decoded_at_its_place_equals_the_whole(model):
  net, variables = model
  reach, hop = vae.decoder_reach(CONFIG), CONFIG.hop_length
  latents = jax.random.normal(jax.random.key(2), (1, 4 * reach + 7, 6))
  whole = net.apply(variables, latents, method="decode")
  begin, end = reach + 3, 3 * reach + 5
  part = latents[:, begin - reach : end + reach]
  there = net.apply(variables, part, jnp.asarray([begin - reach]), method="decode")
  kept = there[:, reach * hop : -reach * hop]
  np.testing.assert_allclose(kept, whole[:, begin * hop : end * hop], atol=1e-4)
  # Without its place the phases of the tones begin elsewhere.
  lost = net.apply(variables, part, method="decode")[:, reach * hop : -reach * hop]
  assert float(jnp.abs(lost - whole[:, begin * hop : end * hop]).max()) > 1e-2


def test_the_reach_is_no_longer_than_said(model):
  net, variables = model
  reach, hop = vae.decoder_reach(CONFIG), CONFIG.hop_length
  latents = jax.random.normal(jax.random.key(3), (1, 2 * reach + 9, 6))
  middle = reach + 4
  changed = latents.at[:, middle].add(3.0)
  difference = net.apply(variables, changed, method="decode") - net.apply(
    variables, latents, method="decode"
  )
  heard = np.flatnonzero(np.abs(np.asarray(difference[0])) > 1e-6) // hop
  assert heard.min() >= middle - reach and heard.max() <= middle + reach


def test_start_frames_far_into_a_stream_are_exact(model):
  net, variables = model
  latents = jax.random.normal(jax.random.key(4), (1, 8, 6))
  period = CONFIG.n_fft  # frames after which every bin's tone has come round
  early = net.apply(variables, latents, jnp.asarray([5]), method="decode")
  late = net.apply(variables, latents, jnp.asarray([5 + period * 1_000_000]), method="decode")
  np.testing.assert_allclose(early, late, atol=1e-5)


def test_born_as_axes_it_is_linear():
  rng = np.random.default_rng(1)
  net = vae.VAE(CONFIG)
  params = nn.meta.unbox(net.init(jax.random.key(0), jnp.zeros((1, 48)), jnp.zeros((1, 1, 6))))
  params = params["params"]
  axes, _ = np.linalg.qr(rng.standard_normal((CONFIG.stacked_bins, 6)))
  offset = rng.standard_normal(CONFIG.stacked_bins).astype(np.float32)
  params["encoder"] |= {"axes": axes, "offset": offset}
  params["decoder"] |= {"axes": axes.T, "offset": offset}
  audio = 0.1 * rng.standard_normal((1, 480)).astype(np.float32)
  mean, log_variance = net.apply({"params": params}, audio, method="encode")
  weights = codec.bin_weights(CONFIG.n_fft, RATE, CONFIG.tilt)
  x = (np.asarray(codec.log_magnitudes(audio, CONFIG)) * weights).reshape(1, 10, -1) - offset
  np.testing.assert_allclose(mean, x @ axes, atol=1e-3)
  assert log_variance.shape == mean.shape
  y = net.apply({"params": params}, mean, method=lambda vae, z: vae.decoder(z))
  expected = (x @ axes @ axes.T + offset).reshape(1, 20, -1) / weights
  np.testing.assert_allclose(y, expected, atol=1e-3)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"n_fft": 0}, "n_fft"),
    ({"stft_hop": 36}, "multiple of stft_hop"),
    (
      {"encoder_strides": (24, 2), "encoder_widths": (8, 8), "encoder_blocks": (1, 1)},
      "only stride",
    ),
  ],
)
def test_sizes_that_cannot_work_are_refused(change, match):
  with pytest.raises((ValueError, UserError), match=match):
    dataclasses.replace(CONFIG, **change)
