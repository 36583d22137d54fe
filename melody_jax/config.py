"""Defaults of a training run, the ranges of its numbers, and the check of presets.

A file in configs/ changes what its model needs. Options with names (schedules, policies, sources)
are checked where the names are defined.
"""

from collections.abc import Iterable, Iterator, Mapping
import math
import re
from typing import Any

import ml_collections

from melody_jax.errors import UserError, check_choice, check_range

PRESETS = ("paper", "nano", "tiny")  # sizes of every model's training
BEST_MODES = ("min", "max")  # which values of a metric are better
DTYPES = ("float32", "bfloat16")  # of computation; parameters are float32

# Dotted key -> (smallest, largest) number.
Ranges = Mapping[str, tuple[float, float]]

TRAINING_RANGES: Ranges = {
  "sample_rate": (1, math.inf),
  "window_seconds": (0.01, math.inf),
  "latent_rate": (1, math.inf),
  "seed": (0, 2**32 - 1),  # what a key of JAX takes with 32-bit integers
  "train.batch_size": (1, math.inf),
  "train.accumulate": (1, math.inf),
  "train.steps": (1, math.inf),
  "train.log_every": (1, math.inf),
  "train.eval_every": (0, math.inf),  # 0: never
  "train.eval_batches": (1, math.inf),
  "train.judge_clips": (2, math.inf),  # one clip has no spread
  "train.save_every": (1, math.inf),
  "train.keep": (1, math.inf),
  "train.keep_every": (0, math.inf),  # 0: none for good
  "train.ema_decay": (0, 0.999999),  # at 1 the average would stay as it was born
  "optimizer.learning_rate": (0, math.inf),
  "optimizer.warmup_steps": (0, math.inf),
  "optimizer.final_scale": (0, 1),
  "optimizer.b1": (0, 0.999999),  # at 1 Adam divides by zero
  "optimizer.b2": (0, 0.999999),
  "optimizer.eps": (1e-30, 1),
  "optimizer.weight_decay": (0, math.inf),
  "optimizer.clip_norm": (1e-30, math.inf),
  "discriminator_optimizer.learning_rate": (0, math.inf),
  "discriminator_optimizer.clip_norm": (1e-30, math.inf),
  "model.dropout": (0, 0.999999),  # at 1 nothing is left
  "model.patch_keep": (1e-6, 1),
  "model.init_temperature": (1e-6, math.inf),
  "model.mel_std": (1e-6, math.inf),
  "model.window_std": (1e-6, math.inf),
  "model.frames_per_token": (1e-6, math.inf),
  "loss.adversarial_from": (0, math.inf),
  "loss.contrastive_temperature": (1e-6, math.inf),
  "loss.gumbel_start": (1e-6, math.inf),
  "loss.gumbel_end": (1e-6, math.inf),
  "loss.gumbel_decay": (1e-6, 1),
  "loss.mask_start_probability": (0, 1),
  "loss.teacher_visible": (0, 1),
  "data.workers": (0, 1024),
  "mesh.data": (-1, math.inf),
  "mesh.fsdp": (-1, math.inf),
  "mesh.tensor": (-1, math.inf),
  "distributed.num_processes": (0, math.inf),
  "distributed.process_id": (-1, math.inf),
  "distributed.start_timeout": (1, math.inf),
  "distributed.heartbeat_timeout": (1, math.inf),
} | {
  f"loss.{name}": (0, math.inf)  # weights
  for name in (
    "stft",
    "spectrum",
    "kl",
    "adversarial",
    "feature_matching",
    "diversity_weight",
    "teacher_weight",
  )
}
# Numbers from here on are not counted exactly, and no size or rate is one.
_HUGE = 1e15


def keys_of(
  config: ml_collections.ConfigDict, prefix: str = "", groups: bool = False
) -> Iterator[tuple[str, Any]]:
  """All keys of a config with their values, {"lm.top_k": 0} as ("lm.top_k", 0).

  Args:
    config: Config of a command, or a group of one.
    prefix: Keys above it, with a dot at the end.
    groups: Whether groups of keys count as keys too, each before those in it.
  """
  for name, value in config.items():
    is_group = isinstance(value, ml_collections.ConfigDict)
    if groups or not is_group:
      yield f"{prefix}{name}", value
    if is_group:
      yield from keys_of(value, f"{prefix}{name}.", groups)


def check_page(config: ml_collections.ConfigDict, *keys: str) -> None:
  """Refuses the config page of another command.

  Args:
    config: Config of a command.
    *keys: Keys by which the command's own pages are known.

  Raises:
    UserError: naming the key that is missing.
  """
  for key in keys:
    if key not in config:
      raise UserError(
        f"--config names a page for another command: it has no config.{key}; --help says which page"
        " this one takes"
      )


def listed(text: str) -> list[str]:
  """The parts of a text with commas in between; blanks around them do not count."""
  return [part.strip() for part in text.split(",") if part.strip()]


def seconds_of(text: str) -> float:
  """A time in seconds: "65.5", "1:05.5" (minutes) or "1:02:03" (hours).

  Raises:
    ValueError: for anything else.
  """
  *larger, seconds = text.strip().split(":")
  value = float(seconds)
  if len(larger) > 2 or (larger and not 0 <= value < 60):
    raise ValueError(f"{text!r} is no time")
  for i, part in enumerate(reversed(larger), 1):
    number = int(part)
    if number < 0 or (i < len(larger) and number >= 60):
      raise ValueError(f"{text!r} is no time")
    value += 60**i * number
  return value


def check_ranges(config: ml_collections.ConfigDict, ranges: Ranges) -> None:
  """Refuses numbers of a config outside their ranges; keys that it lacks are passed over.

  Args:
    config: Config of a command.
    ranges: Range of each number, by dotted key.

  Raises:
    UserError: naming the key, its value and what it takes.
  """
  for key, (low, high) in ranges.items():
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
      node = node.get(parent, {})
    # None: left open, to be as another key.
    if node.get(leaf) is not None:
      check_range(f"config.{key}", node[leaf], low, high)


def check_numbers(config: ml_collections.ConfigDict) -> None:
  """Refuses NaN, infinity and absurdly large numbers, whatever the key.

  Raises:
    UserError: naming the key and its value.
  """
  for key, value in keys_of(config):
    if isinstance(value, int | float) and not isinstance(value, bool):
      check_range(f"config.{key}", value, -_HUGE, _HUGE)


def check_training(config: ml_collections.ConfigDict) -> None:
  """Refuses a training config whose numbers cannot work, before anything is loaded.

  Raises:
    UserError: naming the key, its value and what it takes.
  """
  check_page(config, "task", "train")
  check_ranges(config, TRAINING_RANGES)
  check_numbers(config)
  rows, parts = config.train.batch_size, config.train.accumulate
  if rows % parts:
    raise UserError(f"config.train.accumulate {parts} must divide config.train.batch_size {rows}")
  profile_steps(config.train.profile)
  _check_checkpoints(config.train)


def profile_steps(text: str) -> tuple[int, int] | None:
  """First and last step of "100:105"; None for "".

  Raises:
    UserError: for anything else.
  """
  if not text:
    return None
  match = re.fullmatch(r"(\d+):(\d+)", text)
  if not match or not 1 <= int(match[1]) <= int(match[2]):
    raise UserError(
      f"config.train.profile is {text!r}: it takes the first and the last step to record, as in"
      " 100:105"
    )
  return int(match[1]), int(match[2])


def _check_checkpoints(train: ml_collections.ConfigDict) -> None:
  check_choice("config.train.best_mode", train.best_mode, BEST_MODES)
  if train.best_metric and not train.eval_every:
    raise UserError(
      f"config.train.best_metric={train.best_metric} is measured by evaluations, and"
      " config.train.eval_every is 0: there would be none"
    )
  if train.keep_every % train.save_every:
    raise UserError(
      f"config.train.keep_every {train.keep_every} must be a multiple of config.train.save_every"
      f" {train.save_every}: only saved steps can be kept"
    )


def check_preset(preset: str, known: Iterable[str] = PRESETS) -> None:
  """Refuses what stands after the colon of --config=FILE:PRESET and is no preset of the file.

  Raises:
    UserError: naming the presets that there are.
  """
  check_choice("the preset", preset, known)


def distributed_config() -> ml_collections.ConfigDict:
  """How the processes of a run find each other: `multihost.membership.MembershipSettings`."""
  c = ml_collections.ConfigDict()
  c.coordinator = ""  # host:port of process 0; empty: MELODY_COORDINATOR, or found out
  c.num_processes = 0  # 0: found out
  c.process_id = -1  # -1: found out
  c.start_timeout = 300  # s for all processes to show up
  c.heartbeat_timeout = 25  # s of silence after which a process counts as dead
  return c


def _optimizer_config() -> ml_collections.ConfigDict:
  # AdamW's usual numbers; what a model needs differently is on its own page.
  c = ml_collections.ConfigDict()
  c.name = "adamw"  # or "muon": learns faster a step where most weights are matrices
  c.learning_rate = 1e-3  # peak, after the warm-up
  c.warmup_steps = 100  # steps in which the learning rate rises from 0
  c.schedule = "cosine"  # "cosine", "linear" or "constant"
  c.final_scale = 0.1  # share of learning_rate that is left at the last step
  c.b1 = 0.9  # how much of the mean of gradients each step keeps
  c.b2 = 0.99  # the same of their squares
  c.eps = 1e-8  # keeps a step finite where gradients are 0
  c.weight_decay = 0.0  # share of a weight that decays, times the learning rate, a step
  c.clip_norm = 1.0  # largest norm of the whole gradient
  return c


def data_config() -> ml_collections.ConfigDict:
  """Which datasets are read: keys of training and of fits."""
  c = ml_collections.ConfigDict()
  c.source = "grain"  # "grain" needs no TensorFlow; "seqio" knows tasks of your own, too
  c.path = ""  # directories of datasets, comma-separated; seqio: or names of tasks and mixtures
  c.weights = ""  # comma-separated sampling weights; empty: by hours
  c.workers = 0  # grain: processes that read; 0: threads of the one that trains
  c.modules = ""  # seqio: Python modules, comma-separated, that register tasks of your own
  c.split = "train"  # what is trained or fitted on
  c.eval_split = "validation"  # what evaluations and reports are about
  return c


def training_config(task: str, preset: str) -> ml_collections.ConfigDict:
  """The config of a training run, to be completed by configs/<model>.py.

  Args:
    task: Name of the model, a key of `task.TASKS`.
    preset: Size, one of PRESETS.

  Raises:
    UserError: for another preset.
  """
  check_preset(preset)
  c = ml_collections.ConfigDict()
  c.task = task  # the model that is trained
  c.preset = preset  # its size: what stands behind the colon of --config
  c.sample_rate = 24_000  # Hz, mono
  c.window_seconds = 10.0  # the paper's training window
  c.seed = 0  # of the first parameters, of the order of the data, and of all noise

  c.model = ml_collections.ConfigDict()  # becomes the model's frozen dataclass

  c.data = data_config()

  c.train = ml_collections.ConfigDict()
  c.train.init_from = ""  # begin with this .safetensors file: a bundle's; wav2vec: or a public one
  c.train.batch_size = 8  # rows of a step, over all hosts
  c.train.accumulate = 1  # parts a batch is cut into, one after another (less memory)
  c.train.on_nonfinite = "stop"  # or "skip": what a loss of NaN or infinity does
  c.train.steps = 1000  # step at which the run ends
  c.train.log_every = 20  # steps between progress lines
  c.train.eval_every = 500  # steps between evaluations; 0: none
  c.train.eval_batches = 8  # batches of the validation split that an evaluation reads
  c.train.save_every = 500  # steps between checkpoints
  c.train.keep = 2  # checkpoints kept; the one before the last survives a torn file
  c.train.keep_every = 0  # steps between checkpoints that are kept for good; 0: none
  c.train.best_metric = ""  # validation metric whose best checkpoint is kept as well, as "loss"
  c.train.best_mode = "min"  # or "max": which of its values are better
  c.train.ema_decay = 0.0  # average of the parameters, which evaluation and export take; 0: none
  c.train.profile = ""  # "100:105" records these steps to <workdir>/profile
  c.train.media = False  # audio and spectrograms to TensorBoard at evaluation
  # With media: a bundle whose MuLan hears what LM, DPD or VAE make at evaluation ("fad", "mcc");
  # the LM's tokens and the DPD's latents become sound by its other models. "": nobody listens.
  c.train.judge = ""
  c.train.judge_clips = 64  # windows of a validation batch that are heard, at most

  c.optimizer = _optimizer_config()

  c.export = ml_collections.ConfigDict()
  c.export.bundle = ""  # melody_jax.export writes <bundle>/<task>.safetensors
  c.export.checkpoint = "last"  # or "best", by train.best_metric
  c.export.dtype = "float16"  # floating parameters in it; or "float32", twice the size

  c.mesh = ml_collections.ConfigDict()
  c.mesh.data = -1  # -1: all devices that the other two leave
  c.mesh.fsdp = 1  # devices that share out rows and parameters; -1 with data -1: all of a slice
  c.mesh.tensor = 1  # devices that share out the widths of layers
  c.distributed = distributed_config()
  return c
