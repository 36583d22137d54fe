"""Copies an array dataset that melody_jax.encode wrote into TFDS.

python -m data.encoded --source=DIR --name=NAME
"""

from data.build import check_name, data_dir, default_data_dir
from melody_jax.command_line.flags import Parser, run
from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import shards_of
from melody_jax.places.paths import argument


def main() -> None:
  """Copies every split of the source; prints the directory of the new dataset."""
  parser = Parser(description=__doc__.splitlines()[0])
  parser.add_argument("--source", type=argument, required=True, help="an array dataset")
  parser.add_argument("--name", default="encoded", help="name of the TFDS dataset")
  parser.add_argument(
    "--data_dir",
    type=data_dir,
    default=str(default_data_dir() or ""),
    help="default: %(default)s",
  )
  arguments = parser.parse_args()
  # TFDS makes a class of this name; checked here, where the error can still say what to do.
  check_name(arguments.name, to_tfds=True)
  splits = sorted(shards_of(arguments.source))
  if not splits:
    raise UserError(
      f"no array dataset at {arguments.source}: write one with python -m melody_jax.encode"
    )
  from data.tfds_builder import build_tfds_from_arrays  # TensorFlow, only once the flags are right

  print(
    build_tfds_from_arrays(arguments.source, arguments.name, splits, arguments.data_dir / "tfds")
  )


if __name__ == "__main__":
  run(main)
