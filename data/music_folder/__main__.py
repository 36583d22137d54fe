"""Builds a dataset of your own music.

python -m data.music_folder --folder=DIR [--captions=FILE]
"""

import pathlib

from data.build import build, common_arguments, run
from data.music_folder.corpus import FolderCorpus


def main() -> None:
  """Reads the folder, decodes and captions its files, and writes the dataset."""
  parser = common_arguments(__doc__.splitlines()[0])
  parser.add_argument("--folder", type=pathlib.Path, required=True, help="where the audio is")
  parser.add_argument(
    "--captions",
    type=pathlib.Path,
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
  run(main)
