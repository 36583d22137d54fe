"""The wav2vec 2.0 objective (Baevski et al., 2020) as pure functions.

Shape letters: B batch, T frames, D size of the compared vectors, G codebook groups,
V codes per group, N distractors.
"""

import jax
import jax.numpy as jnp


def span_mask(
  rng: jax.Array, lengths_B: jax.Array, n_frames: int, start_probability: float, span: int
) -> jax.Array:
  """Random mask of hidden frames: every frame starts a span with a fixed probability.

  Spans may overlap, so a share 1 - (1 - start_probability) ** span of the frames is hidden
  away from the first frames.

  Args:
    rng: Random key.
    lengths_B: Valid frames of each row, int32 [B].
    n_frames: Number of frames T.
    start_probability: Probability that a frame starts a span.
    span: Frames in a span.

  Returns:
    bool [B, T], False on padding.
  """
  starts = jax.random.bernoulli(rng, start_probability, (lengths_B.shape[0], n_frames))
  counts = jnp.cumsum(starts.astype(jnp.int32), axis=1)
  before = jnp.pad(counts, ((0, 0), (span, 0)))[:, :n_frames]
  valid = jnp.arange(n_frames)[None, :] < lengths_B[:, None]
  return (counts > before) & valid


def sample_distractors(rng: jax.Array, mask_BxT: jax.Array, n_distractors: int) -> jax.Array:
  """Random hidden frames of the same row, for every hidden frame.

  Args:
    rng: Random key.
    mask_BxT: Mask, true on hidden frames.
    n_distractors: Number of distractors N of a frame.

  Returns:
    int32 [B, T, N], uniform over the row's other hidden frames, with replacement. Rows of
    frames that are not hidden, and of the only hidden frame of a row, are arbitrary.
  """
  b, t = mask_BxT.shape
  order_BxT = jnp.argsort(~mask_BxT, axis=1, stable=True)  # hidden frames first, in order
  rank_BxT = jnp.cumsum(mask_BxT.astype(jnp.int32), axis=1) - 1
  others_B = jnp.maximum(jnp.sum(mask_BxT, axis=1) - 1, 1)
  draw = jax.random.randint(rng, (b, t, n_distractors), 0, others_B[:, None, None])
  draw = draw + (draw >= rank_BxT[:, :, None])  # skip the frame itself
  draw = jnp.minimum(draw, t - 1)
  flat = jnp.take_along_axis(order_BxT, draw.reshape(b, t * n_distractors), axis=1)
  return flat.reshape(b, t, n_distractors).astype(jnp.int32)


def distractor_counts(distractors_BxTxN: jax.Array) -> jax.Array:
  """How often each frame was drawn for each frame: float32 [B, T, T].

  Scoring every pair of frames and weighting by these counts gives the loss of the drawn
  set without gathering N vectors per frame.
  """
  b, t, _ = distractors_BxTxN.shape
  rows = jnp.arange(b)[:, None, None]
  frames = jnp.arange(t)[None, :, None]
  counts = jnp.zeros((b, t, t), jnp.float32)
  return counts.at[rows, frames, distractors_BxTxN].add(1.0)


def contrastive_loss(
  context_BxTxD: jax.Array,
  targets_BxTxD: jax.Array,
  codes_BxTxG: jax.Array,
  counts_BxTxT: jax.Array,
  mask_BxT: jax.Array,
  temperature: float,
) -> tuple[jax.Array, jax.Array]:
  """-log exp(cos(c_t, q_t) / k) / (same over q_t and the distractors), mean of hidden frames.

  A distractor with the same codes as the target is the same vector: it is left out.

  Args:
    context_BxTxD: Projected outputs of the context network.
    targets_BxTxD: Projected quantised features.
    codes_BxTxG: Their codes, int32.
    counts_BxTxT: Counts of drawn distractors, from `distractor_counts`.
    mask_BxT: Mask, true on hidden frames.
    temperature: Temperature k.

  Returns:
    Two scalars: the loss, and the accuracy, which is the share of hidden frames whose target scores
    above all distractors.
  """

  def unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)

  scores = jnp.einsum("btd,bjd->btj", unit(context_BxTxD), unit(targets_BxTxD)) / temperature
  positive_BxT = jnp.diagonal(scores, axis1=1, axis2=2)
  # A Python loop over the few groups keeps the comparison at B x T x T.
  same = jnp.ones(scores.shape, bool)
  for g in range(codes_BxTxG.shape[-1]):
    same &= codes_BxTxG[:, :, None, g] == codes_BxTxG[:, None, :, g]
  used = (counts_BxTxT > 0) & mask_BxT[:, None, :] & ~same
  log_counts = jnp.log(jnp.where(used, counts_BxTxT, 1.0))
  negatives = jnp.where(used, scores + log_counts, -1e9)
  both = jnp.logaddexp(positive_BxT, jax.nn.logsumexp(negatives, axis=-1))
  best_negative = jnp.max(jnp.where(used, scores, -1e9), axis=-1)
  n_hidden = jnp.maximum(jnp.sum(mask_BxT), 1)
  loss = jnp.sum(jnp.where(mask_BxT, both - positive_BxT, 0.0)) / n_hidden
  accuracy = jnp.sum(mask_BxT & (positive_BxT > best_negative)) / n_hidden
  return loss, accuracy


def code_perplexity(probabilities_BxTxGxV: jax.Array, mask_BxT: jax.Array) -> jax.Array:
  """exp(entropy) of each group's code distribution averaged over the masked frames: [G]."""
  weights = mask_BxT.astype(jnp.float32) / jnp.maximum(jnp.sum(mask_BxT), 1)
  mean_GxV = jnp.einsum("btgv,bt->gv", probabilities_BxTxGxV, weights)
  return jnp.exp(-jnp.sum(mean_GxV * jnp.log(mean_GxV + 1e-7), axis=-1))


def diversity_loss(perplexity_G: jax.Array, n_codes: int) -> jax.Array:
  """Scalar 1 - mean over groups of perplexity / V: 0 when all codes are used equally."""
  return 1.0 - jnp.mean(perplexity_G) / n_codes
