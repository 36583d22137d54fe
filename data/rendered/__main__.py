"""Builds the rendered corpus.

python -m data.rendered [--data_dir=DIR] [--jobs=2]
"""

import pathlib

from data.build import build, common_arguments
from data.debian import fetch_packages
from data.files import find_files
from data.rendered.corpus import MIDI_PACKAGE, TEXTURE_SHARE, RenderedCorpus, pieces_for
from data.retold import captions_argument, retold
from data.tracks import Corpus
from melody_jax.command_line.flags import at_least_one, run
from melody_jax.places.paths import argument


def midi_files(package_root: pathlib.Path) -> tuple[dict[str, pathlib.Path], tuple[str, ...]]:
  """Finds the MIDI files of an unpacked package.

  Args:
    package_root: Directory in which the package was unpacked.

  Returns:
    ({path inside the package: file}, lines on links that were not followed).

  Raises:
    UserError: A folder cannot be listed.
  """
  found = find_files(package_root, lambda where: where.endswith(".mid"), outside=False)
  return {where: package_root / where for where in found.files}, found.notes


def main() -> None:
  """Fetches the MIDI package, composes and renders the pieces, and writes the dataset."""
  parser = common_arguments(__doc__.splitlines()[0])
  parser.add_argument(
    "--pieces", type=at_least_one, default=10, help="training pieces of each of 111 styles"
  )
  parser.add_argument(
    "--texture_share",
    type=at_least_one,
    default=TEXTURE_SHARE,
    help="training pieces of each sparse texture (solo piano, choir, ...) for one of another style",
  )
  parser.add_argument(
    "--hours",
    type=at_least_one,
    default=0,
    help="composed training music, at least; takes the place of --pieces",
  )
  parser.add_argument(
    "--raw_dir",
    type=argument,
    default=None,
    help="unpacked Debian packages (default: DATA_DIR/debian)",
  )
  captions_argument(parser)
  arguments = parser.parse_args()
  raw = arguments.raw_dir or arguments.data_dir / "debian"

  def make() -> Corpus:
    (root,) = fetch_packages([MIDI_PACKAGE], raw)
    files, notes = midi_files(root)
    share, hours = arguments.texture_share, arguments.hours
    corpus = RenderedCorpus(files, pieces_for(hours, share) if hours else arguments.pieces, share)
    corpus.notes += notes
    return retold(corpus, arguments.captions)

  build(make, arguments)


if __name__ == "__main__":
  run(main)
