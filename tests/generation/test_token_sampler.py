"""Token sampling: rules against numpy; loops against a plain loop over whole sequences."""

import functools
import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melody_jax.errors import UserError
from melody_jax.generation import token_sampler
from melody_jax.generation.token_sampler import Conditions, Filtered, Greedy, TopK, TopP
from melody_jax.models import lm

CONFIG = lm.LMConfig(
  n_layers=2,
  width=32,
  n_heads=2,
  mlp_width=48,
  style_levels=3,
  style_vocab=7,
  semantic_vocab=11,
  window_tokens=10,
  head="all",
)
MODEL = lm.SemanticLM(CONFIG)
N_LONG = 27  # two windows and a cut chunk


@functools.cache
def params():
  boxed = MODEL.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
  # Wider logits: a fresh network's are too flat for differences to show in tokens.
  return jax.tree.map(lambda x: 2 * x if x.ndim > 2 else x, nn.unbox(boxed))


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def style(n):
  return jax.random.randint(jax.random.key(5), (3, CONFIG.style_levels), 0, 7)[:n]


generate = jax.jit(functools.partial(token_sampler.generate, MODEL), static_argnames="n_tokens")


def logits_rows(rows=4, vocab=50):
  return jax.random.normal(jax.random.key(0), (rows, vocab)) * 3


def kept_by_numpy(logits, temperature, k, p):
  kept = np.zeros(logits.shape, bool)
  for row, out in zip(np.asarray(logits, np.float64) / temperature, kept, strict=True):
    order = np.argsort(-row)[: k or None]
    probability = np.exp(row[order] - row[order].max())
    probability /= probability.sum()
    n = len(order)
    if p is not None:
      n = int(np.searchsorted(np.cumsum(probability), p)) + 1
    out[order[:n]] = True
  return kept


@pytest.mark.parametrize(
  "temperature,k,p",
  [
    (1.0, 5, None),
    (1.0, None, 0.7),
    (0.5, 12, 0.9),
    (2.0, 1, None),
    (1.0, 500, None),
    (1.0, None, 1e-9),
    (1.3, None, None),
  ],
)
def test_filter_equals_numpy(temperature, k, p):
  logits = logits_rows()
  out = np.asarray(Filtered(temperature, k, p).filter(logits))
  np.testing.assert_array_equal(np.isfinite(out), kept_by_numpy(logits, temperature, k, p))
  kept = np.isfinite(out)
  np.testing.assert_allclose(out[kept], (logits / temperature)[kept], rtol=1e-6)


def test_rules_draw_what_they_keep():
  logits = jnp.tile(logits_rows(1), (2000, 1))
  for rule, k, p in ((TopK(4), 4, None), (TopP(0.6), None, 0.6)):
    drawn = np.asarray(rule.sample(logits, keys(2000)))
    kept = kept_by_numpy(logits[:1], 1.0, k, p)[0]
    assert set(drawn) == set(np.flatnonzero(kept))
    masked = np.where(kept, np.asarray(logits[0], np.float64), -np.inf)
    want = np.exp(masked - masked.max()) / np.exp(masked - masked.max()).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=50) / 2000, want, atol=0.05)
  np.testing.assert_array_equal(Greedy().sample(logits, keys(2000)), np.argmax(logits[0]))


@pytest.mark.parametrize(
  "bad",
  [
    dict(temperature=-1),
    dict(temperature=float("nan")),
    dict(top_k=0),
    dict(top_p=0.0),
    dict(top_p=1.5),
  ],
)
def test_bad_numbers_are_named(bad):
  with pytest.raises(UserError, match=next(iter(bad))):
    token_sampler.make_sampler(**bad)


def test_make_sampler():
  assert token_sampler.make_sampler(0.0) == Greedy()
  assert token_sampler.make_sampler(0.8, 40, 0.9) == Filtered(0.8, 40, 0.9)


def test_only_semantic_ids_are_drawn():
  """The head covers style ids too, and here prefers them by far."""
  pushed = jax.tree.map(lambda x: x, params())
  kernel = pushed["head"]["projection"]["kernel"]
  pushed["head"]["projection"]["kernel"] = kernel.at[:, : CONFIG.semantic_offset].mul(50)
  tokens, _ = generate(pushed, Filtered(), keys(3), Conditions(style(3)), n_tokens=N_LONG)
  assert tokens.min() >= 0 and tokens.max() < CONFIG.semantic_vocab


def plain_greedy(n_tokens, scale):
  """One item, whole sequences every time, the sliding window spelt out."""
  forward = jax.jit(functools.partial(lm.forward, MODEL))
  tokens, window = [], []
  sizes = iter([2, 3] * 20)
  room = 10
  nulls = jnp.full((1, 3), CONFIG.null_style)
  for _ in range(n_tokens):
    if room == 0:
      room = next(sizes)
      window = window[-(10 - room) :]
    padded = jnp.asarray([(window + [0] * 11)[:11]])
    at, first = len(window), CONFIG.semantic_offset
    logits = forward(params(), style(1), padded)[0, at, first:]
    if scale is not None:
      without = forward(params(), nulls, padded)[0, at, first:]
      logits = without + scale * (logits - without)
    tokens.append(int(jnp.argmax(logits)))
    window.append(tokens[-1])
    room -= 1
  return tokens


@pytest.mark.parametrize("scale", [None, 3.0])
def test_long_sampling_equals_plain_loop(scale):
  conditions = Conditions(style(1), guidance_scale=scale)
  tokens, nfe = generate(params(), Greedy(), keys(1), conditions, n_tokens=N_LONG)
  assert tokens[0].tolist() == plain_greedy(N_LONG, scale)
  assert nfe == N_LONG  # one network pass a token: 25 a second, as docs/spec.md, section 8 counts


def test_item_does_not_depend_on_its_batch():
  conditions = functools.partial(Conditions, guidance_scale=2.0)
  three, _ = generate(params(), Filtered(), keys(3), conditions(style(3)), n_tokens=N_LONG)
  one, _ = generate(params(), Filtered(), keys(3)[:1], conditions(style(1)), n_tokens=N_LONG)
  np.testing.assert_array_equal(three[:1], one)
  other, _ = generate(params(), Filtered(), keys(1, seed=7), conditions(style(1)), n_tokens=N_LONG)
  assert np.any(other != one)
  same_style, _ = generate(
    params(), Filtered(), keys(3), conditions(jnp.tile(style(1), (3, 1))), n_tokens=N_LONG
  )
  assert np.any(same_style[0] != same_style[1])


def test_shorter_is_a_prefix():
  long, _ = generate(params(), Filtered(), keys(1), Conditions(style(1)), n_tokens=N_LONG)
  for n in (4, 10, 11, 14):
    short, nfe = generate(params(), Filtered(), keys(1), Conditions(style(1)), n_tokens=n)
    np.testing.assert_array_equal(short, long[:, :n])
    assert nfe == n


def test_guidance_scale_one_is_no_guidance():
  plain, _ = generate(params(), Filtered(), keys(2), Conditions(style(2)), n_tokens=10)
  one, _ = generate(params(), Filtered(), keys(2), Conditions(style(2), 1.0), n_tokens=10)
  np.testing.assert_array_equal(plain, one)
  nulls = jnp.full_like(style(2), CONFIG.null_style)
  named, _ = generate(params(), Filtered(), keys(2), Conditions(style(2), 4.0, nulls), n_tokens=10)
  four, _ = generate(params(), Filtered(), keys(2), Conditions(style(2), 4.0), n_tokens=10)
  np.testing.assert_array_equal(named, four)
  per_item, _ = generate(
    params(), Filtered(), keys(2), Conditions(style(2), jnp.asarray([1.0, 4.0])), n_tokens=10
  )
  np.testing.assert_array_equal(per_item, jnp.stack([plain[0], four[1]]))


fill = jax.jit(functools.partial(token_sampler.fill, MODEL))


def reads(*pieces):
  padded = jnp.zeros((4, 3), jnp.int32).at[: len(pieces)].set(jnp.asarray(pieces))
  return token_sampler.Reads(*padded.T, jnp.asarray(len(pieces)))


def fill_window(tokens, known, first=0, conditions=None, pieces=((0, 10, 0),)):
  first = jnp.full(len(tokens), first)
  conditions = conditions or Conditions(style(len(tokens)))
  return fill(
    params(), Filtered(), keys(len(tokens)), conditions, reads(*pieces), tokens, known, first
  )


def test_windows_filled_one_after_another_equal_one_program():
  whole, _ = generate(params(), Filtered(), keys(2), Conditions(style(2)), n_tokens=N_LONG)
  edges = token_sampler.chunk_edges(CONFIG.window_tokens, 4, 11)
  assert edges == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]
  tokens, nfe = fill_window(jnp.zeros((2, 10), jnp.int32), jnp.zeros((2, 10), bool))
  parts, passes = [tokens], int(nfe)
  for begin, end in itertools.pairwise(edges[4:]):
    moved = jnp.pad(tokens[:, end - begin :], ((0, 0), (0, end - begin)))
    known = jnp.broadcast_to(jnp.arange(10) < 10 - (end - begin), (2, 10))
    tokens, nfe = fill_window(moved, known, end - 10, pieces=((10 - (end - begin), 10, 0),))
    parts.append(tokens[:, begin - end :])
    passes += int(nfe)
  np.testing.assert_array_equal(jnp.concatenate(parts, axis=1), whole)
  assert passes == N_LONG


def test_known_tokens_stay_and_are_heard():
  given = jax.random.randint(jax.random.key(9), (2, 10), 0, CONFIG.semantic_vocab)
  known = jnp.asarray([[True] * 4 + [False] * 3 + [True] * 3, [False] * 10])
  tokens, nfe = fill_window(given, known)
  np.testing.assert_array_equal(tokens[0, :4], given[0, :4])
  np.testing.assert_array_equal(tokens[0, 7:], given[0, 7:])
  free, _ = fill_window(given, jnp.zeros((2, 10), bool))
  np.testing.assert_array_equal(tokens[1], free[1])
  assert nfe == 10
  # Read in one pass up to the first unknown token, or token by token: the same.
  late, nfe = fill_window(given[:1], known[:1], pieces=((4, 7, 0),))
  np.testing.assert_array_equal(late[0], tokens[0])
  assert nfe == 3
  others = fill_window((given + 1) % CONFIG.semantic_vocab, known)[0]
  assert np.any(others[0, 4:7] != tokens[0, 4:7])


def test_style_may_change_inside_a_window():
  none = jnp.zeros((1, 10), bool)
  two = jnp.stack([style(3)[:1], style(3)[1:2]], axis=1)
  conditions = Conditions(jnp.concatenate([two, two], axis=1))
  blank = jnp.zeros((1, 10), jnp.int32)
  changed, nfe = fill_window(blank, none, 0, conditions, ((0, 5, 0), (5, 10, 1)))
  first, _ = fill_window(blank, none)
  np.testing.assert_array_equal(changed[:, :5], first[:, :5])
  assert nfe == 10
  known = jnp.arange(10)[None] < 5
  rest, _ = fill_window(changed, known, 0, Conditions(style(3)[1:2]), ((5, 10, 0),))
  np.testing.assert_array_equal(rest, changed)


def test_repetition_guard():
  guard = token_sampler.RepetitionGuard(penalty=0.5, span=3)
  tokens = jnp.asarray([[4, 2, 2, 1, 9, 9]])
  out = guard.apply(jnp.zeros((1, 10)), tokens, jnp.asarray(4))
  np.testing.assert_allclose(out[0, :5], [0, -0.5, -1.0, 0, 0])
  strong = Conditions(style(1), guard=token_sampler.RepetitionGuard(penalty=1e4, span=5))
  drawn, _ = generate(params(), Filtered(), keys(1), strong, n_tokens=10)
  assert all(len(set(drawn[0, i : i + 6].tolist())) == 6 for i in range(5))


def test_sampler_numbers_may_be_traced():
  @jax.jit
  def draw(temperature, k):
    return TopK(k, temperature).sample(logits_rows(), keys(4))

  for k in (1, 3):
    np.testing.assert_array_equal(draw(0.7, k), TopK(k, 0.7).sample(logits_rows(), keys(4)))
