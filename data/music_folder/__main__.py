"""Builds a dataset of your own music.

python -m data.music_folder --folder=DIR [--captions=FILE]
"""

import sys

from data.build import build, common_arguments
from data.music_folder.corpus import FolderCorpus
from melody_jax.errors import UserError
from melody_jax.places.paths import argument


def main() -> None:
  """Reads the folder, decodes and captions its files, and writes the dataset."""
  parser = common_arguments(__doc__.splitlines()[0])
  parser.add_argument("--folder", type=argument, required=True, help="where the audio is")
  parser.add_argument(
    "--captions",
    type=argument,
    default=None,
    help="CSV or JSONL (default: captions.csv or captions.jsonl in the folder)",
  )
  parser.add_argument("--name", default="music_folder", help="name of the dataset")
  parser.add_argument(
    "--licence", default="own", help="licence of files whose captions row has none"
  )
  arguments = parser.parse_args()
  build(
    lambda: FolderCorpus(arguments.folder, arguments.captions, arguments.name, arguments.licence),
    arguments,
  )


if __name__ == "__main__":
  try:
    main()
  except UserError as error:
    sys.exit(f"error: {error}")
