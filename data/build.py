"""Writes a corpus to disk as a TFDS dataset, an array dataset, or both.

Both formats get their records from `data.tracks.examples`, so they hold the same records. A
manifest (one row a track) and a report (hours, licences, unusable files) lie beside them.
TensorFlow is imported only when a TFDS dataset is asked for.
"""

import argparse
from collections.abc import Callable
import concurrent.futures
import multiprocessing
import os
import pathlib
import sys
from typing import NoReturn

from data.tracks import FEATURES, Corpus, Ledger, Track, examples, select_licences, write_ledger
from melody_jax.cli import EXIT_BAD_INPUT
from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ShardWriter


def _write_shards(
  corpus: Corpus, tracks: list[Track], root: str, shard: int, n_shards: int
) -> Ledger:
  ledger = Ledger()
  for split in corpus.splits:
    chosen = [t for t in tracks if t.split == split]
    # A split with fewer tracks than processes gets fewer shards, so that none is empty.
    count = max(1, min(n_shards, len(chosen)))
    if not chosen or shard >= count:
      continue
    writer = ShardWriter(pathlib.Path(root) / split, shard, count, FEATURES)
    for _, record, pcm in examples(corpus, chosen[shard::count], ledger):
      writer.write(record, {"audio": pcm})
    writer.close()
  return ledger


def build_arrays(
  corpus: Corpus, root: str | os.PathLike, licences: str = "all", jobs: int = 1
) -> Ledger:
  """Writes an array dataset, manifest.jsonl and report.json to `root`.

  Args:
    corpus: The corpus. Must be picklable if `jobs` is above 1.
    root: Directory of the dataset. It is made if missing; shards of the same name are replaced.
    licences: "all" tracks, or only "free" ones (see `data.tracks.is_free`).
    jobs: Number of processes. Each writes one shard of every split.

  Returns:
    The ledger: rows of the manifest, and the tracks that could not be used.

  Raises:
    UserError: No track has a licence that `licences` admits.
  """
  tracks = select_licences(corpus.tracks(), licences)
  if not tracks:
    raise UserError(
      f"{corpus.name}: no track found for licences={licences}; nothing written to {root}"
    )
  root = pathlib.Path(root)
  root.mkdir(parents=True, exist_ok=True)
  ledger = Ledger()
  if jobs == 1:
    ledger.merge(_write_shards(corpus, tracks, str(root), 0, 1))
  else:
    # A forked process could inherit locks of threads that do not exist in it, and hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
      work = [pool.submit(_write_shards, corpus, tracks, str(root), i, jobs) for i in range(jobs)]
      for part in work:
        ledger.merge(part.result())
  write_ledger(root, ledger)
  return ledger


def default_data_dir() -> pathlib.Path:
  """Directory of all datasets if the user names none: $MELODY_DATA, or ~/melody_data."""
  return pathlib.Path(os.environ.get("MELODY_DATA", pathlib.Path.home() / "melody_data"))


def common_arguments(description: str) -> argparse.ArgumentParser:
  """Parser with the command-line flags that all builders share.

  Args:
    description: First line of the help page.
  """
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument(
    "--data_dir",
    type=pathlib.Path,
    default=default_data_dir(),
    help="datasets and downloads go here (default: %(default)s)",
  )
  parser.add_argument(
    "--format",
    choices=("tfds", "arrays", "both"),
    default="tfds",
    help="TFDS dataset, TensorFlow-free array dataset, or both",
  )
  parser.add_argument(
    "--licences",
    choices=("all", "free"),
    default="all",
    help="free: only CC-BY, CC-BY-SA, CC0 and public domain",
  )
  parser.add_argument("--jobs", type=int, default=1, help="processes (array datasets only)")
  return parser


def build(make_corpus: Callable[[], Corpus], arguments: argparse.Namespace) -> None:
  """Builds the formats that the flags ask for; prints the directory and the hours of each.

  Args:
    make_corpus: Makes the corpus. Called once.
    arguments: Parsed flags of `common_arguments`.

  Raises:
    UserError: There is no usable track.
  """
  # Once: making it may download packages.
  corpus = make_corpus()
  # A dataset of free licences has a name of its own, so that both can lie side by side.
  name = corpus.name if arguments.licences == "all" else f"{corpus.name}_{arguments.licences}"
  if arguments.format in ("arrays", "both"):
    where = arguments.data_dir / "arrays" / name
    _announce(where, build_arrays(corpus, where, arguments.licences, arguments.jobs))
  if arguments.format in ("tfds", "both"):
    from data.tfds_builder import build_tfds  # TensorFlow, only where it is asked for

    _announce(*build_tfds(corpus, arguments.data_dir / "tfds", arguments.licences))


def _announce(where: pathlib.Path, ledger: Ledger) -> None:
  report = ledger.report()
  hours = ", ".join(f"{k} {v['seconds'] / 3600:.2f} h" for k, v in report["splits"].items())
  put_aside = ", ".join(f"{v} {k}" for k, v in report["quarantined"].items()) or "none"
  print(f"{where}: {report['tracks']} tracks; {hours}; quarantined: {put_aside} (report.json)")


def run(main: Callable[[], None]) -> NoReturn:
  """Runs a builder and ends the process; a UserError is one line on standard error, status 2."""
  try:
    main()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(EXIT_BAD_INPUT) from None
  raise SystemExit(0)
