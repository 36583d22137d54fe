"""Trains one model.

python -m melody_jax.train --config=configs/<model>.py:<preset> --workdir=DIR --config.data.path=DIR

Compiled programs are kept, so that the same command starts faster the next time: in
$JAX_COMPILATION_CACHE_DIR, in <workdir>/programs where the workdir is a bucket, and otherwise in
the user's cache directory.
"""

from melody_jax import cli
from melody_jax.config import check_training
from melody_jax.places import buckets


def main(config, workdir: str) -> None:
  """Runs the loop; a second call with the same workdir resumes.

  Ends with status 75 where the run was told to stop (SIGTERM) and saved: the same command goes on.

  Raises:
    UserError: for settings, data or sizes that do not fit.
  """
  check_training(config)
  # Late: a wrong command line is told before JAX is loaded.
  from melody_jax.generation import programs
  from melody_jax.multihost import session
  from melody_jax.training import loop

  # A machine that was taken away comes back with an empty disk, and the bucket is still there.
  cache = buckets.path_of(workdir) / "programs" if buckets.in_bucket(workdir) else None
  programs.use_compilation_cache(cache)
  with session.session(config.distributed):
    step = int(loop.train(config, workdir).step)
  if step < config.train.steps:
    raise SystemExit(session.EXIT_TRY_AGAIN)


if __name__ == "__main__":
  cli.run(main, needs_workdir=True)
