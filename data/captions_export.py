"""Writes the tags of each track of a dataset as JSONL, for a language model to write from.

python -m data.captions_export --source=DIR --out=tags.jsonl
"""

from collections import Counter
import pathlib

from melody_jax.command_line.flags import Parser, run
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import json_text, shards_of
from melody_jax.output_files import write_files
from melody_jax.places.paths import argument


def rows_of(source: pathlib.Path) -> list[dict[str, object]]:
  """A row a track: track, split, seconds, tags (those of most clips first), captions (none yet).

  Titles and authors stay out: they must not come into captions.

  Raises:
    UserError: There is no dataset, or it is not complete.
  """
  splits = sorted(shards_of(source))
  if not splits:
    raise UserError(f"no dataset at {source}: build one with python -m data....")
  rows: list[dict[str, object]] = []
  for split in splits:
    dataset = Dataset(source, split)
    tags: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for i in range(len(dataset)):
      record = dataset.record(i)
      tags.setdefault(record["track"], Counter()).update(record["tags"])
      seconds[record["track"]] += record["seconds"]
    rows += [
      {
        "track": track,
        "split": split,
        "seconds": round(seconds[track], 2),
        "tags": [tag for tag, _ in counts.most_common()],
        "captions": [],
      }
      for track, counts in sorted(tags.items())
    ]
  return rows


def main() -> None:
  """Writes the file; prints how many tracks it holds."""
  parser = Parser(description=__doc__.splitlines()[0])
  parser.add_argument("--source", type=argument, required=True, help="a dataset")
  parser.add_argument("--out", type=argument, required=True, help="file to write; it must be new")
  arguments = parser.parse_args()
  if arguments.out.exists():
    raise UserError(f"{arguments.out} is there already: sentences may be in it; give another --out")
  rows = rows_of(arguments.source)
  write_files({arguments.out: "".join(f"{json_text(row)}\n" for row in rows).encode()})
  print(f"{arguments.out}: {len(rows)} tracks")


if __name__ == "__main__":
  run(main)
