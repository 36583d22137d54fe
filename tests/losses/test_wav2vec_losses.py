"""The wav2vec 2.0 objective against loops in numpy, and statistics of its draws."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.losses import wav2vec as losses


def reference_contrastive(context, targets, codes, distractors, mask, temperature):
  def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

  total, right = [], []
  for b, t in zip(*np.nonzero(mask)):
    positive = cosine(context[b, t], targets[b, t]) / temperature
    others = [
      cosine(context[b, t], targets[b, j]) / temperature
      for j in distractors[b, t]
      if (codes[b, j] != codes[b, t]).any()
    ]
    total.append(np.log(np.sum(np.exp([positive, *others]))) - positive)
    right.append(all(positive > o for o in others))
  return np.mean(total), np.mean(right)


def test_contrastive_loss_equals_the_loop():
  rng = np.random.default_rng(0)
  context, targets = rng.normal(size=(2, 3, 12, 8)).astype(np.float32)
  codes = rng.integers(0, 3, size=(3, 12, 2))
  for b in range(3):  # equal codes are equal vectors
    for t in range(12):
      targets[b, t] = targets[b, np.flatnonzero((codes[b] == codes[b, t]).all(axis=-1))[0]]
  mask = rng.random((3, 12)) < 0.6
  distractors = losses.sample_distractors(jax.random.key(0), jnp.asarray(mask), 20)
  loss, accuracy = losses.contrastive_loss(
    context,
    targets,
    jnp.asarray(codes),
    losses.distractor_counts(distractors),
    jnp.asarray(mask),
    0.1,
  )
  expected = reference_contrastive(context, targets, codes, np.asarray(distractors), mask, 0.1)
  np.testing.assert_allclose((loss, accuracy), expected, rtol=1e-4)


def test_distractors_are_other_hidden_frames_drawn_evenly():
  mask = np.zeros((2, 30), bool)
  mask[0, [3, 4, 9, 20]] = True
  mask[1, 5:25] = True
  distractors = np.asarray(losses.sample_distractors(jax.random.key(0), jnp.asarray(mask), 3000))
  for b, t in zip(*np.nonzero(mask)):
    assert set(distractors[b, t]) == set(np.flatnonzero(mask[b])) - {t}
    share = np.unique(distractors[b, t], return_counts=True)[1] / 3000
    assert np.abs(share * (mask[b].sum() - 1) - 1).max() < 0.4


def test_a_single_hidden_frame_has_no_distractor_and_no_loss():
  mask = jnp.zeros((1, 6), bool).at[0, 2].set(True)
  counts = losses.distractor_counts(losses.sample_distractors(jax.random.key(0), mask, 5))
  x = jax.random.normal(jax.random.key(1), (1, 6, 4))
  codes = jnp.arange(6, dtype=jnp.int32).reshape(1, 6, 1)
  loss, accuracy = losses.contrastive_loss(x, x[:, ::-1], codes, counts, mask, 0.1)
  assert float(loss) == 0.0 and float(accuracy) == 1.0


def test_mask_statistics():
  p, span, n = 0.065, 10, 400
  lengths = jnp.where(jnp.arange(200) % 2 == 0, n, 150)
  mask = np.asarray(losses.span_mask(jax.random.key(0), lengths, n, p, span))
  expected = 1 - (1 - p) ** span
  assert abs(mask[::2, span:].mean() - expected) < 0.01
  assert abs(mask[1::2, span:150].mean() - expected) < 0.02
  assert not mask[1::2, 150:].any()
  for row in mask[::2]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
    runs = edges[1::2] - edges[::2]
    assert (runs[:-1] >= span).all()  # the last may be cut by the end


def test_perplexity_and_diversity():
  uniform = jnp.full((1, 4, 2, 8), 1 / 8)
  single = jnp.zeros((1, 4, 2, 8)).at[..., 0].set(1.0)
  mask = jnp.ones((1, 4), bool)
  np.testing.assert_allclose(losses.code_perplexity(uniform, mask), 8.0, rtol=1e-4)
  np.testing.assert_allclose(losses.code_perplexity(single, mask), 1.0, rtol=1e-4)
  assert abs(float(losses.diversity_loss(jnp.array([8.0, 8.0]), 8))) < 1e-6
  assert float(losses.diversity_loss(jnp.array([1.0, 1.0]), 8)) > 0.8
