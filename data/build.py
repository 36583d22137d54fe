"""Writes a corpus to disk: a TFDS dataset, or an array dataset, with manifest and report.

Both come from the same generator (`data.tracks.examples`), so they hold the same records.
TensorFlow is imported only when a TFDS dataset is asked for.
"""

import argparse
from collections.abc import Callable
import concurrent.futures
import multiprocessing
import os
import pathlib

from data.tracks import FEATURES, Corpus, Ledger, Track, examples, select_licences, write_ledger
from melody_jax.errors import UserError
from melody_jax.input_pipeline.array_dataset import ShardWriter


def _write_shards(
  corpus: Corpus, tracks: list[Track], root: str, shard: int, n_shards: int
) -> Ledger:
  ledger = Ledger()
  for split in corpus.splits:
    chosen = [t for t in tracks if t.split == split]
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
    corpus: must be picklable where `jobs` > 1.
    root: made if missing; splits of the same name in it are replaced.
    licences: "all" or "free".
    jobs: processes, each writing one shard of every split.
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
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
      work = [pool.submit(_write_shards, corpus, tracks, str(root), i, jobs) for i in range(jobs)]
      for part in work:
        ledger.merge(part.result())
  write_ledger(root, ledger)
  return ledger


def default_data_dir() -> pathlib.Path:
  """Where datasets go unless told otherwise: $MELODY_DATA, or ~/melody_data."""
  return pathlib.Path(os.environ.get("MELODY_DATA", pathlib.Path.home() / "melody_data"))


def common_arguments(description: str) -> argparse.ArgumentParser:
  """Command-line flags that every builder shares."""
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
  """Builds what the flags ask for and prints where it is and how long it is."""
  corpus = make_corpus()
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
