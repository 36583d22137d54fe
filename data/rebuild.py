"""What a dataset was built from, and how a new build takes the place of an old one.

A dataset holds what one build made and nothing of the builds before it: a track that was deleted or
moved to another split would otherwise stay where it was. The new one is made beside the old one,
which stays whole until then.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

from data.tracks import FEATURES, Corpus, Track
from melody_jax.errors import UserError
from melody_jax.input_pipeline.shards import VERSION as STORE
from melody_jax.input_pipeline.shards import read_note, shards_of
from melody_jax.output_files import check_new_folder, claim, write_error
from melody_jax.provenance import VERSION

LEDGER = ("manifest.jsonl", "report.json")
_HIDDEN = ".building-"


def fingerprint(corpus: Corpus, tracks: list[Track]) -> str:
  """SHA-256 over all that the records depend on: tracks, splits, files, captions, this program.

  Files count by size and time of change: reading them would take as long as building.

  Args:
    corpus: The corpus; what it adds itself is `corpus.identity()`.
    tracks: Its tracks that are used.
  """
  rows: list[Any] = [VERSION, repr(FEATURES), corpus.identity()]
  for track in tracks:
    fields = dataclasses.asdict(track) | {"path": None}
    with contextlib.suppress(OSError):  # a file that is gone is put aside later on
      if track.path is not None:
        found = track.path.stat()
        fields["path"] = [found.st_size, found.st_mtime_ns]
    rows.append(fields)
  return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()


def check_place(root: pathlib.Path, origin: str, before: str, tracks: list[Track]) -> None:
  """Refuses a place whose files a build would lose.

  Args:
    root: Directory of the dataset.
    origin: Where the music lies.
    before: Where the music of the dataset lay that is there now; "" where there is none.
    tracks: Tracks of the corpus.

  Raises:
    UserError: if the dataset there is of other music, the music itself lies there, or files are in
      the way that no builder wrote.
  """
  if before and origin and before != origin:
    raise UserError(
      f"{root} holds the dataset of {before}: give this one another --name or --data_dir, or delete"
      f" {root}"
    )
  here = root.resolve()
  inside = next((t.path for t in tracks if t.path and here in t.path.resolve().parents), None)
  if inside:
    raise UserError(
      f"{inside} lies in the directory of the dataset, {root}: give another --data_dir"
    )
  check_new_folder(root)
  for name in LEDGER:
    if (root / name).exists() and not _is_ledger(root / name):
      raise UserError(
        f"{root / name} is there already and was not written by melody_jax: give another"
        " --data_dir, or move it away first"
      )


def _is_ledger(path: pathlib.Path) -> bool:
  try:
    with open(path, encoding="utf-8") as f:
      found = json.loads((f.readline() or "{}") if path.suffix == ".jsonl" else f.read())
  except (OSError, ValueError):
    return False
  keys = {"track", "split"} if path.suffix == ".jsonl" else {"tracks", "quarantined"}
  return not path.stat().st_size or (isinstance(found, dict) and found.keys() >= keys)


def origin_of(root: pathlib.Path) -> str:
  """Where the music of a dataset lay; "" where there is none, or it does not say."""
  found = (read_note(note).get("origin", "") for s in shards_of(root).values() for note in s)
  return next(filter(None, found), "")


@contextlib.contextmanager
def replaced(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """An empty directory whose contents take the place of the dataset in `root` at the end.

  Records, manifest and report of the old dataset go; other files in `root` stay. Where the block
  raises, the old dataset stays as it was.

  Args:
    root: Directory of the dataset, made where it is missing.

  Yields:
    Directory to build in, on the same disk.

  Raises:
    UserError: if another command is building there, or `root` cannot be written.
  """
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise write_error(root, e) from e
  with claim([root / LEDGER[0]]):
    for left in root.glob(f"{_HIDDEN}*"):  # of a build that was killed
      shutil.rmtree(left, ignore_errors=True)
    new = root / f"{_HIDDEN}{os.getpid()}"
    new.mkdir()
    try:
      yield new
      if (root / STORE).exists():
        os.rename(root / STORE, new / "old")
      os.rename(new / STORE, root / STORE)
      for name in LEDGER:
        os.replace(new / name, root / name)
    finally:
      shutil.rmtree(new, ignore_errors=True)
