"""Writes a corpus to disk as a dataset.

A manifest (one row a track) and a report (hours, licences, unusable files) lie beside it.
"""

import argparse
from collections.abc import Callable
import concurrent.futures
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
import os
import pathlib
import re
import signal
from typing import Any

from threadpoolctl import threadpool_limits

from data.rebuild import check_place, fingerprint, origin_of, replaced
from data.tracks import (
  FEATURES,
  Corpus,
  Ledger,
  Track,
  counted,
  examples,
  select_licences,
  write_ledger,
)
from melody_jax.command_line.flags import Parser, at_least_one
from melody_jax.command_line.signals import end_children
from melody_jax.command_line.streams import StdoutError
from melody_jax.errors import UserError
from melody_jax.host import cache_folders
from melody_jax.input_pipeline.shards import ShardWriter
from melody_jax.places.paths import argument
from melody_jax.progress import bar

# A process takes a few seconds to begin: fewer tracks than these are not worth one of its own.
_TRACKS_A_PROCESS = 8
# Number of tracks done by all processes of a build, in each of them.
_done: Any = None


def _begin(done: Any) -> None:
  """Makes a process of the pool ready: its count, and no ear for Ctrl-C, which all would report."""
  global _done
  _done = done
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def _count_one() -> None:
  with _done.get_lock():
    _done.value += 1


def _write_shards(
  corpus: Corpus,
  tracks: list[Track],
  root: str,
  shard: int,
  n_shards: int,
  made_from: str,
  done: Callable[[], Any] = _count_one,
) -> Ledger:
  ledger = Ledger()
  for split in corpus.splits:
    chosen = [t for t in tracks if t.split == split]
    # A split with fewer tracks than processes gets fewer shards, so that none is empty.
    count = max(1, min(n_shards, len(chosen)))
    if not chosen or shard >= count:
      continue
    writer = ShardWriter(root, split, shard, count, FEATURES, {"build": made_from}, corpus.origin)
    # Arrays are small and processes many: threads of the linear algebra would wait for each other.
    with threadpool_limits(1):
      for _, record, pcm in examples(corpus, counted(chosen[shard::count], done), ledger):
        writer.write(record, {"audio": pcm})
    writer.close()
  return ledger


def build_dataset(
  corpus: Corpus,
  root: str | os.PathLike,
  licences: str = "all",
  jobs: int = 1,
  shown: bool = False,
) -> Ledger:
  """Writes a dataset, manifest.jsonl and report.json to `root`.

  Args:
    corpus: The corpus. Must be picklable if `jobs` is above 1.
    root: Directory of the dataset. It is made if missing; a dataset in it is replaced as a whole.
    licences: "all" tracks, or only "free" ones (see `data.tracks.is_free`).
    jobs: Number of processes. Each writes one shard of every split. 0: see `usual_jobs`.
    shown: Whether a bar on standard error tells how far the build is, and how long it will take.

  Returns:
    The ledger: rows of the manifest, and the tracks that could not be used.

  Raises:
    UserError: No track has a licence that `licences` admits, none could be used, the directory
      holds what must not be lost, or the machine is at fault.
  """
  tracks = select_licences(corpus.tracks(), licences)
  if not tracks:
    raise UserError(
      f"{corpus.name}: no track found for licences={licences}; nothing written to {root}"
    )
  jobs = jobs or usual_jobs(len(tracks))
  root = pathlib.Path(root)
  check_place(root, corpus.origin, origin_of(root), tracks)
  made_from = fingerprint(corpus, tracks)
  with replaced(root) as new:
    ledger = Ledger(remarks=list(corpus.notes))
    ledger.merge(_write_all(corpus, tracks, str(new), jobs, made_from, shown))
    ledger.check_usable(corpus.name)
    write_ledger(new, ledger)
  return ledger


def usual_jobs(tracks: int) -> int:
  """Processes for a number of tracks: one a core of this process, but none for under eight."""
  # A container may have fewer cores than its machine; only Linux says so.
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return max(1, min(cores, tracks // _TRACKS_A_PROCESS))


def _write_all(
  corpus: Corpus, tracks: list[Track], root: str, jobs: int, made_from: str, shown: bool
) -> Ledger:
  """Writes all shards, one a process of every split."""
  with bar(len(tracks), corpus.name, "track", shown) as progress:
    if jobs == 1:
      return _write_shards(corpus, tracks, root, 0, 1, made_from, progress.update)
    ledger = Ledger()
    # A forked process could inherit locks of threads that do not exist in it, and hang.
    context = multiprocessing.get_context("spawn")
    done = context.Value("l", 0)
    with concurrent.futures.ProcessPoolExecutor(
      jobs, mp_context=context, initializer=_begin, initargs=(done,)
    ) as pool:
      work = [
        pool.submit(_write_shards, corpus, tracks, root, i, jobs, made_from) for i in range(jobs)
      ]
      try:
        while concurrent.futures.wait(work, timeout=1.0).not_done:
          progress.update(done.value - progress.n)
        for part in work:
          ledger.merge(part.result())
      except BrokenProcessPool as error:
        raise UserError(
          f"{corpus.name}: a process of the build was killed: is there enough memory for"
          f" --jobs={jobs}?"
        ) from error
      except BaseException:
        end_children()  # the pool would wait until they are done
        raise
      progress.update(done.value - progress.n)
  return ledger


def default_data_dir() -> pathlib.Path | None:
  """Directory of all datasets if the user names none: $MELODY_DATA, or ~/melody_data.

  None if there is no home either.
  """
  if given := os.environ.get("MELODY_DATA"):
    return argument(given)
  home = cache_folders.home()
  return home and home / "melody_data"


def data_dir(given: str) -> pathlib.Path:
  """Directory of all datasets, from the flag or its default.

  Raises:
    UserError: There is neither a flag nor a default.
  """
  if not given:  # not known to argparse, so that one line is printed in place of its usage
    raise UserError("no home to put datasets in: name a directory by --data_dir=DIR or MELODY_DATA")
  return argument(given)


def check_name(name: str) -> None:
  """Refuses a name of a dataset that would lie elsewhere.

  Raises:
    UserError: saying what a name is made of.
  """
  if not re.fullmatch(r"[^\W_][\w. -]*", name):  # in any language
    raise UserError(f"--name={name}: use letters, digits, underscores and hyphens")


def common_arguments(description: str) -> argparse.ArgumentParser:
  """Parser with the command-line flags that all builders share.

  Args:
    description: First line of the help page.
  """
  parser = Parser(description=description)
  parser.add_argument(
    "--data_dir",
    type=data_dir,
    default=str(default_data_dir() or ""),
    help="datasets and downloads go here (default: %(default)s)",
  )
  parser.add_argument(
    "--licences",
    choices=("all", "free"),
    default="all",
    help="free: only CC-BY, CC-BY-SA, CC0 and public domain",
  )
  parser.add_argument(
    "--jobs",
    type=at_least_one,
    default=0,
    help="processes (default: one a core, but none for under eight tracks)",
  )
  return parser


def build(make_corpus: Callable[[], Corpus], arguments: argparse.Namespace) -> None:
  """Builds the dataset that the flags ask for; prints its directory and its hours.

  Args:
    make_corpus: Makes the corpus. Called once.
    arguments: Parsed flags of `common_arguments`.

  Raises:
    UserError: There is no usable track, or nothing can be written.
  """
  cache_folders.check()
  try:
    _build(make_corpus(), arguments)
  except StdoutError:
    raise  # what the build printed, not what it wrote
  except OSError as error:
    where = f" ({error.filename})" if error.filename else ""
    raise UserError(f"the build stopped: {error.strerror or error}{where}") from error


def _build(corpus: Corpus, arguments: argparse.Namespace) -> None:
  for note in corpus.notes:
    print(note)
  # A dataset of free licences has a name of its own, so that both can lie side by side.
  name = corpus.name if arguments.licences == "all" else f"{corpus.name}_{arguments.licences}"
  where = arguments.data_dir / name
  _announce(where, build_dataset(corpus, where, arguments.licences, arguments.jobs, True))


def _announce(where: pathlib.Path, ledger: Ledger) -> None:
  """Prints where a dataset lies and what it holds; used and put aside add up to what was found."""
  report = ledger.report()
  for row in report["notes"]:
    print(f"{row['track']}: {row['note']}")
  splits = report["splits"]
  empty = {row["split"] for row in ledger.quarantined} - set(splits)
  if empty:
    print(f"no usable track is left in {', '.join(sorted(empty))}")
  used, aside = report["tracks"], sum(report["quarantined"].values())
  seconds = sum(split["seconds"] for split in splits.values())
  lengths = "; ".join(
    f"{name} {split['tracks']}, {_length(split['seconds'])}" for name, split in splits.items()
  )
  reasons = ", ".join(f"{count} {reason}" for reason, count in report["quarantined"].items())
  print(
    f"{where}: {used + aside} tracks found, {used} used, {_length(seconds)} ({lengths}),"
    f" {aside} put aside" + (f": {reasons} (report.json says why)" if reasons else "")
  )


def _length(seconds: float) -> str:
  return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
