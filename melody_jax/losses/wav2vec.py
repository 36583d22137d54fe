"""The training objective of wav2vec 2.0 (Baevski et al., 2020) as pure functions.

Shape letters: B batch, T frames, D size of the compared vectors, G codebook groups, V codes of a
group, N distractors.
"""

import jax
import jax.numpy as jnp

from melody_jax.losses.contrastive import unit_vectors


def span_mask(
  rng: jax.Array, lengths_B: jax.Array, n_frames: int, start_probability: float, span: int
) -> jax.Array:
  """Draws which frames to hide from the model. Each frame may start a hidden span.

  Spans may overlap. On average a share 1 - (1 - start_probability) ** span of the frames is hidden,
  a little less at the beginning of a clip.

  Args:
    rng: Random key.
    lengths_B: Valid frames of each row, int32 [B].
    n_frames: Number of frames T.
    start_probability: Probability that a frame starts a span.
    span: Number of frames in a span.

  Returns:
    bool [B, T], true on hidden frames. Padding is never hidden.
  """
  starts = jax.random.bernoulli(rng, start_probability, (lengths_B.shape[0], n_frames))
  # A frame is hidden if a span began at it or at one of the span - 1 frames before: a difference
  # of running counts.
  counts = jnp.cumsum(starts.astype(jnp.int32), axis=1)
  before = jnp.pad(counts, ((0, 0), (span, 0)))[:, :n_frames]
  valid = jnp.arange(n_frames)[None, :] < lengths_B[:, None]
  return (counts > before) & valid


def sample_distractors(rng: jax.Array, mask_BxT: jax.Array, n_distractors: int) -> jax.Array:
  """Draws wrong answers: for each hidden frame, other hidden frames of the same row.

  Args:
    rng: Random key.
    mask_BxT: Hidden frames, bool [B, T].
    n_distractors: Number N of draws for each frame.

  Returns:
    Numbers of frames, int32 [B, T, N], drawn evenly and with replacement. The values are
    meaningless for frames that are not hidden, and for the only hidden frame of a row.
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
  """Counts how often each frame was drawn for each frame.

  To score all pairs of frames and weight them by these counts gives the same loss as to gather the
  N drawn vectors of each frame, in less memory.

  Args:
    distractors_BxTxN: Numbers of frames, int32 [B, T, N].

  Returns:
    float32 [B, T, T]. Entry (b, t, j) is how often frame j was drawn for frame t.
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
  """Contrastive loss: how well each hidden frame tells its target from the distractors.

      -log(exp(cos(c_t, q_t) / k) / sum over q in {q_t, distractors} of exp(cos(c_t, q) / k))

  A distractor with the same codes as the target is the same vector, so it is left out.

  Args:
    context_BxTxD: Projected outputs c of the context network, float [B, T, D].
    targets_BxTxD: Projected quantised features q, float [B, T, D].
    codes_BxTxG: Codes of the targets, int32 [B, T, G].
    counts_BxTxT: Result of `distractor_counts`, float32 [B, T, T].
    mask_BxT: Hidden frames, bool [B, T].
    temperature: The k of the formula.

  Returns:
    (loss, accuracy), scalars. The loss is the mean over hidden frames, in nats. The accuracy is the
    share of hidden frames whose target scores above all distractors.
  """
  context, targets = unit_vectors(context_BxTxD), unit_vectors(targets_BxTxD)
  scores = jnp.einsum("btd,bjd->btj", context, targets) / temperature
  positive_BxT = jnp.diagonal(scores, axis1=1, axis2=2)
  # A Python loop over the few groups: all at once would need an array B x T x T x G.
  same = jnp.ones(scores.shape, bool)
  for g in range(codes_BxTxG.shape[-1]):
    same &= codes_BxTxG[:, :, None, g] == codes_BxTxG[:, None, :, g]
  used = (counts_BxTxT > 0) & mask_BxT[:, None, :] & ~same
  # A frame drawn n times adds n exp(score), which is exp(score + log n).
  log_counts = jnp.log(jnp.where(used, counts_BxTxT, 1.0))
  negatives = jnp.where(used, scores + log_counts, -1e9)
  both = jnp.logaddexp(positive_BxT, jax.nn.logsumexp(negatives, axis=-1))
  # Without the counts: how often a rival was drawn does not make it more like the target.
  best_negative = jnp.max(jnp.where(used, scores, -1e9), axis=-1)
  # A batch in which nothing was hidden has the loss 0, not NaN.
  n_hidden = jnp.maximum(jnp.sum(mask_BxT), 1)
  loss = jnp.sum(jnp.where(mask_BxT, both - positive_BxT, 0.0)) / n_hidden
  accuracy = jnp.sum(mask_BxT & (positive_BxT > best_negative)) / n_hidden
  return loss, accuracy


def code_perplexity(probabilities_BxTxGxV: jax.Array, mask_BxT: jax.Array) -> jax.Array:
  """Perplexity of each codebook group: how many codes are in even use.

  It is exp(entropy) of the code distribution averaged over the masked frames.

  Args:
    probabilities_BxTxGxV: Distribution over codes, float [B, T, G, V].
    mask_BxT: Frames that count, bool [B, T].

  Returns:
    float32 [G], from 1 to V.
  """
  weights = mask_BxT.astype(jnp.float32) / jnp.maximum(jnp.sum(mask_BxT), 1)
  mean_GxV = jnp.einsum("btgv,bt->gv", probabilities_BxTxGxV, weights)
  # A code that is never probable adds 0 log 0: 0 here, and NaN without the 1e-7.
  return jnp.exp(-jnp.sum(mean_GxV * jnp.log(mean_GxV + 1e-7), axis=-1))


def diversity_loss(perplexity_G: jax.Array, n_codes: int) -> jax.Array:
  """Penalty on unused codes: 1 - mean over groups of perplexity / V.

  Args:
    perplexity_G: Perplexity of each group, float [G].
    n_codes: Number of codes V of a group.

  Returns:
    Scalar. It is 0 if all codes are used equally.
  """
  return 1.0 - jnp.mean(perplexity_G) / n_codes
