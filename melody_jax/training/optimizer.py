"""Learning-rate schedules and optimisers (Optax) from a config."""

from typing import Any

import jax
import ml_collections
import optax

from melody_jax.errors import check_choice
from melody_jax.parameter_rules import decays


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
  schedules = {
    "cosine": optax.cosine_decay_schedule(peak, decay, config.final_scale),
    "linear": optax.linear_schedule(peak, peak * config.final_scale, decay),
    "constant": optax.constant_schedule(peak),
  }
  check_choice("config.optimizer.schedule", config.schedule, schedules)
  after = schedules[config.schedule]
  return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


OPTIMIZERS = ("adamw", "muon")
# Root mean square of Muon's steps before the learning rate, that of AdamW's: one rate suits both.
MUON_RMS = 0.2


def make_optimizer(
  config: ml_collections.ConfigDict, steps: int, labels: Any = None
) -> optax.GradientTransformation:
  """The rule that `config.name` names, with global-norm clipping; "frozen" leaves get no update.

  Names decide which parameters decay (`parameter_rules.DECAYS`).

  "adamw", or "muon": matrices are stepped in orthogonalised directions (Jordan et al. 2024,
  Liu et al. 2025, arXiv 2502.16982), everything else by AdamW.

  Args:
    config: `config.optimizer` of a run.
    steps: Number of steps of the run, which the schedule covers.
    labels: Pytree of strings in the shape of the parameters: leaves labelled "frozen" get no
      update. None: all are trained.
  """
  check_choice("config.optimizer.name", config.name, OPTIMIZERS)
  schedule = learning_rate_schedule(config, steps)
  if config.name == "adamw":
    rule = optax.adamw(
      schedule,
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=decays,
    )
  else:
    # optax's muon lets Adam's half decay whole: rate and decay are put around it instead.
    rule = optax.chain(
      optax.contrib.muon(
        1.0,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=MUON_RMS,
      ),
      optax.add_decayed_weights(-config.weight_decay, decays),
      optax.scale_by_schedule(schedule),
    )
  # Clipped first: a moment that has once seen a huge gradient steps wrongly for long.
  train = optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)
  if labels is None:
    return train
  # Frozen parameters get no moments either, which saves twice their memory.
  return optax.multi_transform({"default": train, "frozen": optax.set_to_zero()}, labels)


_STACKED = frozenset({"layers", "blocks"})  # modules whose parameters are stacked for a scan


def _matrices(params: Any) -> Any:
  """Which axes of a parameter Muon takes for a matrix; None leaves it to Adam."""

  def axes(path: tuple[Any, ...], p: Any) -> Any:
    keys = [getattr(k, "key", "") for k in path]
    if keys[-1] != "kernel":
      return None  # tables, biases and scales are no maps between spaces
    if p.ndim == 2:
      return optax.contrib.MuonDimensionNumbers(0, 1)
    if p.ndim == 3 and _STACKED & set(keys):
      return optax.contrib.MuonDimensionNumbers(1, 2)
    if p.ndim == 3 and p.shape[1] in (3, 4):  # gates of a recurrence [in, gates, out]
      return optax.contrib.MuonDimensionNumbers(0, 2)
    if p.ndim == 3:  # a convolution [taps, in, out] maps all of its taps at once
      return optax.contrib.MuonDimensionNumbers((0, 1), 2)
    if p.ndim == 4 and _STACKED & set(keys):  # a stack of recurrences, or of convolutions
      gates = p.shape[2] in (3, 4)
      return optax.contrib.MuonDimensionNumbers(1 if gates else (1, 2), 3)
    if p.ndim == 4:  # a convolution of a picture [taps, taps, in, out]
      return optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    return None

  return jax.tree_util.tree_map_with_path(axes, params)
