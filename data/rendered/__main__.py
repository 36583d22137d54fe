"""Builds the rendered corpus.

python -m data.rendered [--data_dir=DIR] [--format=arrays] [--jobs=2]
"""

import pathlib
import sys

from data.build import build, common_arguments
from data.debian import fetch_packages
from data.rendered.corpus import MIDI_PACKAGE, RenderedCorpus
from melody_jax.errors import UserError
from melody_jax.places.paths import argument


def midi_files(package_root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Finds the MIDI files of an unpacked package. Links are left out.

  Args:
    package_root: Directory in which the package was unpacked.

  Returns:
    {path inside the package: file}.
  """
  files = (p for p in sorted(package_root.rglob("*.mid")) if not p.is_symlink())
  return {p.relative_to(package_root).as_posix(): p for p in files}


def main() -> None:
  """Fetches the MIDI package, composes and renders the pieces, and writes the dataset."""
  parser = common_arguments(__doc__.splitlines()[0])
  parser.add_argument(
    "--pieces", type=int, default=10, help="training pieces of each of 111 styles"
  )
  parser.add_argument(
    "--raw_dir",
    type=argument,
    default=None,
    help="unpacked Debian packages (default: DATA_DIR/debian)",
  )
  arguments = parser.parse_args()
  raw = arguments.raw_dir or arguments.data_dir / "debian"

  def make() -> RenderedCorpus:
    (root,) = fetch_packages([MIDI_PACKAGE], raw)
    return RenderedCorpus(midi_files(root), arguments.pieces)

  build(make, arguments)


if __name__ == "__main__":
  try:
    main()
  except UserError as error:
    sys.exit(f"error: {error}")
