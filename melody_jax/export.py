r"""Copies a run's latest or best parameters into a bundle, for sampling, encoding and later stages.

    python -m melody_jax.export --config=configs/<model>.py:<preset> --workdir=DIR \
        --config.export.bundle=checkpoints/nano
"""

import json

from melody_jax import cli
from melody_jax.config import check_training
from melody_jax.errors import UserError, check_choice
from melody_jax.output_files import write_files

CHECKPOINTS = ("last", "best")
FILE_DTYPES = ("float16", "float32")  # what numpy writes of them


def export(config, workdir: str) -> None:
  """Writes `<bundle>/<task>.safetensors` from the run in `workdir`.

  What serves training alone stays out (`Task.export_params`).

  Raises:
    UserError: If no directory is given or it cannot be written, the run has no checkpoint, or is
      of another model than the config.
  """
  check_training(config)
  check_choice("config.export.dtype", config.export.dtype, FILE_DTYPES)
  check_choice("config.export.checkpoint", config.export.checkpoint, CHECKPOINTS)
  if not config.export.bundle:
    raise UserError("--config.export.bundle=DIR is missing: where to write the model's file")
  # Late: --help and a wrong command line must not wait for JAX.
  from melody_jax import bundle
  from melody_jax.task import make_task
  from melody_jax.training import run_record
  from melody_jax.training.checkpoint import load_params

  bundle.check_writable(config.export.bundle, config.task)
  run_record.check_same_model(workdir, config)
  best = (config.train.best_metric, config.train.best_mode)
  params, step = load_params(workdir, best if config.export.checkpoint == "best" else None)
  task = make_task(config)
  _check_shapes(task, params, workdir)
  metadata = {
    "task": config.task,
    "preset": config.preset,
    "step": step,
    "dtype": config.export.dtype,
    "model_config": json.loads(config.model.to_json_best_effort()),
  }
  path = bundle.path_of(config.export.bundle, config.task)
  bundle.save(path, task.export_params(params), metadata, config.export.dtype)
  write_files({path.with_name(n): text.encode() for n, text in task.export_files().items()})
  print(f"{path}: step {step}")


def _check_shapes(task, params, workdir: str) -> None:
  """Raises UserError unless the parameters are those that the config's model has."""
  from flax import linen as nn
  import jax

  # A run without a record, or with one that was edited, is still told by its arrays.
  born = nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))
  wanted, found = (
    {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape) for path, x in leaves}
    for leaves in map(jax.tree_util.tree_leaves_with_path, (born, params))
  )
  for name in sorted(wanted.keys() | found.keys()):
    if wanted.get(name) != found.get(name):
      raise UserError(
        f"the run in {workdir} is of another model or size than --config: {name} is"
        f" {found.get(name, 'missing')} there, {wanted.get(name, 'missing')} in the config; give"
        " the config that it was trained with"
      )


if __name__ == "__main__":
  cli.run(export, needs_workdir=True)
