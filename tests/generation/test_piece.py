"""Which windows a piece is made of, and where in them the LM draws."""

import numpy as np
import pytest

from melody_jax import Request
from melody_jax.generation import piece as piece_plan
from melody_jax.generation.window import plan_reads
from melody_jax.models.vae import VAE, VAEConfig, decoder_reach


def planned(melody, request):
  """The piece of a request, with recognisable latents and tokens for its audio."""
  networks = melody.networks
  latents = tokens = None
  if request.audio is not None:
    n = max(-(-len(request.audio) // 480), 500)
    latents = np.full((n, networks.codec.latent_dim), 0.5, np.float32)
    tokens = np.full(len(request.audio) // 960, 3, np.int32)
  return piece_plan.plan(networks, request, None, latents, tokens)


def seconds(n):
  return np.zeros(round(n * 24_000), np.float32)


def test_new_music_moves_by_chunks(melody):
  assert planned(melody, Request("a", seconds=1)).starts == [0]
  assert planned(melody, Request("a", seconds=10)).starts == [0]
  assert planned(melody, Request("a", seconds=12)).starts == [0, 125]
  assert planned(melody, Request("a", seconds=30)).starts == list(range(0, 1001, 125))


def test_continuing_begins_where_the_audio_ends(melody):
  piece = planned(melody, Request(audio=seconds(13.1), seconds=8))
  assert piece.known[:655].all() and not piece.known[655:].any()
  assert piece.tokens_known[:327].all() and not piece.tokens_known[327:].any()
  assert piece.starts[0] == 250  # 5 s to 15 s: the last quarter holds what comes after 13.1 s
  assert piece.starts[-1] + 500 == len(piece.latents) == 9 * 125


@pytest.mark.parametrize("region", [(0.0, 1.0), (7.0, 8.0), (3.33, 3.35), (0.0, 8.0)])
def test_regions_become_frames_and_tokens(melody, region):
  piece = planned(melody, Request(audio=seconds(8), regions=[region]))
  frames = slice(int(np.floor(region[0] * 50)), int(np.ceil(round(region[1] * 50, 6))))
  unknown = np.zeros(400, bool)
  unknown[frames] = True
  np.testing.assert_array_equal(piece.known[:400] == 0, unknown)
  assert not piece.known[400:].any() and piece.end_frame == 400
  assert (~piece.tokens_known[:200]).sum() == -(-frames.stop // 2) - frames.start // 2
  assert piece.starts == [0]


def test_strength_leaves_a_part_of_the_music(melody):
  weak = planned(melody, Request(audio=seconds(8), strength=0.3))
  np.testing.assert_allclose(weak.known[:400], 0.7)
  assert weak.tokens_known[:200].all()
  assert not planned(melody, Request(audio=seconds(8), strength=0.7)).tokens_known.any()


@pytest.mark.parametrize(
  "regions",
  [[(30, 32)], [(0, 1)], [(59, 60)], [(57, 62.5)], [(10, 31)], [(1, 2), (3, 4), (50, 58)]],
)
def test_holes_are_covered_and_seen_from_both_sides(melody, regions):
  piece = planned(melody, Request(audio=seconds(62.5), regions=regions))
  left = piece.known.copy()
  for start in piece.starts:
    assert 0 <= start <= len(left) - 500
    left[start : start + 500] = 1.0
  assert left.all()
  for begin, end in regions:
    if end - begin > 5 or begin < 4 or end > 58:
      continue
    assert any(s + 100 < begin * 50 and end * 50 < s + 400 for s in piece.starts)


def test_what_was_made_is_known_to_the_next_window(melody):
  piece = planned(melody, Request("a", seconds=15))
  networks = melody.networks
  piece.take(networks, 0, np.full(250, 7), np.full((500, 8), 0.25, np.float32))
  piece.steering = piece_plan.Steering(_Levels(), _track(), np.zeros(12, np.int32))
  window = piece.window(networks, 1)
  assert window["start_frame"] == 125 and window["first_token"] == 62
  assert window["known"][:375].all() and not window["known"][375:].any()
  assert window["tokens_known"][:188].all() and not window["tokens_known"][188:].any()
  assert (window["tokens"][:188] == 7).all() and (window["latents"][:375] == 0.25).all()


class _Levels:
  def tokens(self, embedding):
    return np.full(12, int(embedding[0] * 100), np.int32)


def _track():
  from melody_jax.generation.style import StyleTrack

  angles = np.asarray([0.0, np.pi / 2])
  return StyleTrack(np.asarray([0.0, 20.0]), np.stack([np.cos(angles), np.sin(angles)], 1))


def test_style_moves_between_its_times():
  track = _track()
  np.testing.assert_allclose(track.at(-5.0), [1, 0], atol=1e-6)
  np.testing.assert_allclose(track.at(10.0), [0.5**0.5] * 2, rtol=1e-6)
  np.testing.assert_allclose(track.at(99.0), [0, 1], atol=1e-6)


def test_reads_are_as_few_as_styles_and_gaps_allow():
  style = np.zeros((2, 4, 12), np.int32)
  unknown = np.zeros((2, 250), bool)

  def reads(known, style):
    r = plan_reads(known, style)
    return [(int(r.begin[i]), int(r.end[i]), int(r.style[i])) for i in range(r.count)]

  assert reads(unknown, style) == [(0, 250, 0)]
  changing = style.copy()
  changing[1, 2:] = 5
  assert reads(unknown, changing) == [(0, 125, 0), (125, 250, 2)]
  known = unknown.copy()
  known[0, :200], known[1, :190] = True, True
  assert reads(known, style) == [(190, 250, 3)]
  known[:] = True
  known[0, 30:60] = known[1, 40:100] = False
  assert reads(known, style) == [(30, 100, 0)]
  known[1, 40:70] = True
  assert reads(known, style) == [(30, 60, 0), (70, 100, 1)]
  assert reads(~unknown, style) == []


def _random_like(params):
  """Noise of unit gain, so that a deep stack neither dies out nor saturates."""
  import jax

  rng = np.random.default_rng(1)

  def draw(x):
    gain = 0.1 if x.ndim == 1 else np.prod(x.shape[:-1]) ** -0.5
    return (gain * rng.normal(size=x.shape)).astype(np.float32)

  return jax.tree.map(draw, params)


@pytest.mark.parametrize(
  "config",
  [
    dict(decoder="frame", decoder_blocks=2, decoder_width=8),
    dict(
      decoder="hifigan",
      decoder_width=16,
      encoder_strides=(2, 3, 4, 4),
      encoder_kernels=(5, 7, 9, 9),
      upsample_rates=(4, 4, 3, 2),
      upsample_widths=(8, 4, 4, 4),
      upsample_kernels=(9, 9, 5, 7),
    ),
  ],
)
def test_the_decoder_reaches_no_further_than_said(config):
  import jax
  import jax.numpy as jnp

  strides = config.pop("encoder_strides", (48,))
  config = VAEConfig(
    latent_dim=4, encoder_strides=strides, encoder_widths=(4,) * len(strides),
    encoder_blocks=(0,) * len(strides), **config,
  )  # fmt: skip
  model, hop = VAE(config), config.hop_length
  shapes = jnp.zeros((1, hop * 8)), jnp.zeros((1, 8, 4))
  params = model.init(jax.random.key(0), *shapes)
  params = _random_like(params)
  from flax import linen as nn

  params = nn.meta.unbox(params)
  reach, n = decoder_reach(config), 81
  z = jax.random.normal(jax.random.key(2), (1, n, 4))
  decode = jax.jit(lambda z: model.apply(params, z, method="decode"))
  difference = np.abs(np.asarray(decode(z) - decode(z.at[0, n // 2].add(3.0))))[0]
  touched = np.flatnonzero(difference > 0)
  assert touched.min() >= (n // 2 - reach) * hop and touched.max() < (n // 2 + 1 + reach) * hop
  # Not much less far either: a bound that is far too wide would cost streams their latency.
  assert touched.min() < (n // 2 - reach + 4) * hop
