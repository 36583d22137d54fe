"""Learning-rate schedules and optimisers (Optax) from a config."""

from typing import Any

import ml_collections
import optax


def learning_rate_schedule(config: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then a decay.

  Args:
    config: `config.optimizer` of a run. `schedule` is the decay, "cosine", "linear" or "constant";
      the first two reach learning_rate * final_scale at the end.
    steps: Number of steps of the run.
  """
  # A short run (tests, a rehearsal) may have fewer steps than the config's warm-up.
  peak, warmup = config.learning_rate, min(config.warmup_steps, steps)
  decay = max(steps - warmup, 1)
  after = {
    "cosine": optax.cosine_decay_schedule(peak, decay, config.final_scale),
    "linear": optax.linear_schedule(peak, peak * config.final_scale, decay),
    "constant": optax.constant_schedule(peak),
  }[config.schedule]
  return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def make_optimizer(
  config: ml_collections.ConfigDict, steps: int, labels: Any = None
) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter 2019) with clipping by the global norm.

  Args:
    config: `config.optimizer` of a run.
    steps: Number of steps of the run, which the schedule covers.
    labels: Pytree of strings in the shape of the parameters: leaves labelled "frozen" get no
      update. None: all are trained.
  """

  def decays(params):
    import jax

    return jax.tree.map(lambda p: p.ndim > 1, params)  # no decay on norms and biases

  train = optax.chain(
    # Clipped before Adam: its moments would remember one broken batch for long.
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      learning_rate_schedule(config, steps),
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=decays,
    ),
  )
  if labels is None:
    return train
  # Frozen parameters get no moments either, which saves twice their memory.
  return optax.multi_transform({"default": train, "frozen": optax.set_to_zero()}, labels)
