"""Trains one model.

python -m melody_jax.train --config=configs/<model>.py:<preset> --workdir=DIR --config.data.path=DIR
"""

from melody_jax import cli


def main(config, workdir: str) -> None:
  """Runs the loop; a second call with the same workdir resumes."""
  from melody_jax import loop

  loop.train(config, workdir)


if __name__ == "__main__":
  cli.run(main, needs_workdir=True)
