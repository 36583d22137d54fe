r"""Copies a run's latest or best parameters into a bundle, for sampling, encoding and later stages.

    python -m melody_jax.export --config=configs/<model>.py:<preset> --workdir=DIR \
        --config.export.bundle=checkpoints/nano
"""

import json

from melody_jax import bundle, cli
from melody_jax.config import check_training
from melody_jax.errors import UserError, check_choice

CHECKPOINTS = ("last", "best")
DTYPES = ("float16", "float32")  # what numpy writes of them


def export(config, workdir: str) -> None:
  """Writes `<bundle>/<task>.safetensors` from the run in `workdir`.

  What serves training alone stays out (`Task.export_params`).

  Raises:
    UserError: If no directory is given, or the run has no checkpoint.
  """
  from melody_jax.task import make_task
  from melody_jax.training.checkpoint import load_params

  check_training(config)
  check_choice("config.export.dtype", config.export.dtype, DTYPES)
  check_choice("config.export.checkpoint", config.export.checkpoint, CHECKPOINTS)
  if not config.export.bundle:
    raise UserError("--config.export.bundle=DIR is missing: where to write the model's file")
  best = (config.train.best_metric, config.train.best_mode)
  params, step = load_params(workdir, best if config.export.checkpoint == "best" else None)
  task = make_task(config)
  metadata = {
    "task": config.task,
    "preset": config.preset,
    "step": step,
    "dtype": config.export.dtype,
    "model_config": json.loads(config.model.to_json_best_effort()),
  }
  path = bundle.path_of(config.export.bundle, config.task)
  bundle.save(path, task.export_params(params), metadata, config.export.dtype)
  print(f"{path}: step {step}")


if __name__ == "__main__":
  cli.run(export, needs_workdir=True)
