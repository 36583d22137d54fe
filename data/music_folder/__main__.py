"""Builds a dataset of your own music.

python -m data.music_folder --folder=DIR [--captions=FILE]
"""

import pathlib

from data.build import build, check_name, common_arguments
from data.duplicates import duplicates_argument, without_duplicates
from data.music_folder.corpus import FolderCorpus
from data.tracks import Corpus
from melody_jax.command_line.flags import run
from melody_jax.errors import UserError
from melody_jax.places.paths import argument
from melody_jax.progress import print_progress


def captions_file(given: pathlib.Path | None, folder: pathlib.Path) -> pathlib.Path | None:
  """The captions file that --captions names.

  It is looked for from the working directory, in the folder, and beside the folder.

  Args:
    given: Path as the user gave it; None lets the corpus look for its usual names.
    folder: Directory of the music.

  Raises:
    UserError: if it is in none of these places.
  """
  if given is None:
    return None
  places = list(dict.fromkeys((given, folder / given, folder.absolute().parent / given)))
  found = [place for place in places if place.is_file()]
  if not found:
    looked = ", ".join(str(place) for place in places)
    raise UserError(f"no captions file {given} (looked for {looked}): give its path")
  if not given.is_file():
    print_progress(f"captions: {found[0]}")
  return found[0]


def main() -> None:
  """Reads the folder, decodes and captions its files, and writes the dataset."""
  parser = common_arguments(__doc__.splitlines()[0])
  parser.add_argument("--folder", type=argument, required=True, help="where the audio is")
  parser.add_argument(
    "--captions",
    type=argument,
    default=None,
    help="CSV or JSONL, looked for here, in the folder and beside it"
    " (default: captions.csv or captions.jsonl in the folder)",
  )
  parser.add_argument("--name", default="music_folder", help="name of the dataset")
  parser.add_argument(
    "--licence", default="own", help="licence of files whose captions row has none"
  )
  duplicates_argument(parser)
  arguments = parser.parse_args()
  check_name(arguments.name)

  def make() -> Corpus:
    corpus = FolderCorpus(
      arguments.folder,
      captions_file(arguments.captions, arguments.folder),
      arguments.name,
      arguments.licence,
    )
    return without_duplicates(corpus, arguments.duplicates)

  build(make, arguments)


if __name__ == "__main__":
  run(main)
