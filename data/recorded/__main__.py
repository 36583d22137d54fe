"""Builds the recorded corpus.

python -m data.recorded [--data_dir=DIR] [--jobs=2]
"""

from data.build import build, common_arguments
from data.duplicates import duplicates_argument, without_duplicates
from data.recorded.corpus import RecordedCorpus
from data.retold import captions_argument, retold
from data.tracks import Corpus
from melody_jax.command_line.flags import run
from melody_jax.places.paths import argument


def main() -> None:
  """Fetches the packages, decodes and captions their music, and writes the dataset."""
  parser = common_arguments(__doc__.splitlines()[0])
  parser.add_argument(
    "--raw_dir",
    type=argument,
    default=None,
    help="unpacked Debian packages (default: DATA_DIR/debian)",
  )
  captions_argument(parser)
  duplicates_argument(parser)
  arguments = parser.parse_args()
  raw = arguments.raw_dir or arguments.data_dir / "debian"

  def make() -> Corpus:
    return retold(without_duplicates(RecordedCorpus(raw), arguments.duplicates), arguments.captions)

  build(make, arguments)


if __name__ == "__main__":
  run(main)
