"""InfoNCE against numpy; identical captions are not negatives."""

import jax
import jax.numpy as jnp
import numpy as np

from melody_jax.losses.contrastive import fingerprint, info_nce


def _unit(rng, *shape):
  x = rng.normal(size=shape).astype(np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _reference(music, text, scale, labels=None):
  logits = scale * music.astype(np.float64) @ text.astype(np.float64).T
  total = 0.0
  for table in (logits, logits.T):
    for i, row in enumerate(table):
      keep = [j for j in range(len(row)) if labels is None or j == i or labels[j] != labels[i]]
      total += np.log(np.exp(row[keep]).sum()) - row[i]
  return total / (2 * len(logits))


def test_loss_matches_numpy():
  rng = np.random.default_rng(0)
  music, text = _unit(rng, 12, 8), _unit(rng, 12, 8)
  loss, _ = info_nce(music, text, jnp.float32(14.0))
  np.testing.assert_allclose(loss, _reference(music, text, 14.0), rtol=1e-5)


def test_identical_captions_are_not_negatives():
  rng = np.random.default_rng(0)
  music, text = _unit(rng, 6, 8), _unit(rng, 6, 8)
  labels = np.array([0, 1, 0, 2, 1, 0], np.uint32)
  loss, _ = info_nce(music, text, jnp.float32(10.0), labels)
  np.testing.assert_allclose(loss, _reference(music, text, 10.0, labels), rtol=1e-5)
  all_same, _ = info_nce(music, text, jnp.float32(10.0), np.zeros(6, np.uint32))
  np.testing.assert_allclose(all_same, 0.0, atol=1e-6)


def test_perfect_towers_have_recall_one_and_gradients_are_finite():
  x = _unit(np.random.default_rng(0), 16, 8)
  _, metrics = info_nce(x, x, jnp.float32(50.0))
  assert float(metrics["text_to_music_recall@1"]) == 1.0
  assert float(metrics["music_to_text_recall@1"]) == 1.0
  np.testing.assert_allclose(metrics["pair_cosine"], 1.0, rtol=1e-5)
  labels = np.zeros(16, np.uint32)
  grads = jax.grad(lambda m: info_nce(m, x, jnp.float32(50.0), labels)[0])(x)
  assert np.isfinite(np.asarray(grads)).all()


def test_recall_counts_ranks_by_direction():
  music = np.eye(3, dtype=np.float32)
  # Text 0 is nearest to music 1; texts 1 and 2 to their own.
  text = np.array([[0.5, 0.8, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]], np.float32)
  _, metrics = info_nce(music, text, jnp.float32(1.0))
  np.testing.assert_allclose(metrics["text_to_music_recall@1"], 2 / 3, rtol=1e-6)
  np.testing.assert_allclose(metrics["music_to_text_recall@1"], 1.0, rtol=1e-6)


def test_fingerprint_tells_captions_apart():
  ids = np.random.default_rng(0).integers(0, 30_000, (500, 16)).astype(np.int32)
  ids[1] = ids[0]
  ids[2] = ids[0][::-1]
  marks = np.asarray(fingerprint(ids))
  assert marks[0] == marks[1]
  assert len(np.unique(marks)) == 499
