"""Audio files of a directory, and the prompts that they were made for."""

import csv
import io
import json
import pathlib
from typing import Any

from melody_jax.errors import UserError

SUFFIXES = (
  ".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".wma",
)  # fmt: skip


def audio_files(folder: str, option: str) -> list[pathlib.Path]:
  """All audio files below a directory, sorted by their path in it.

  Args:
    folder: Directory.
    option: The option that names it, for messages.

  Raises:
    UserError: if it is not named, no directory, or holds no audio file.
  """
  if not folder:
    raise UserError(f"{option} is empty: name a directory of audio files")
  root = pathlib.Path(folder)
  if not root.is_dir():
    state = "is a file" if root.exists() else "does not exist"
    raise UserError(f"{root} {state} ({option}): name a directory of audio files")
  found = [
    path
    for path in root.rglob("*")
    if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
  ]
  if not found:
    raise UserError(f"{root} holds no audio file ({option}): {', '.join(SUFFIXES)} are read")
  return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def prompts_of(files: list[pathlib.Path], table: str) -> dict[pathlib.Path, str]:
  """The text that each file was made for, of the files whose text is known.

  Args:
    files: Audio files.
    table: CSV file with the columns file and prompt; "": the reports that `melody_jax.sample`
      writes beside its files are read.

  Raises:
    UserError: if the table is missing, or no such table.
  """
  if table:
    by_name = _read_table(pathlib.Path(table))
    return {path: by_name[path.name] for path in files if path.name in by_name}
  found = {path: str(report_of(path).get("prompt") or "") for path in files}
  # A mixture of prompts is no single text.
  return {path: text for path, text in found.items() if text.strip() and "|" not in text}


def _read_table(path: pathlib.Path) -> dict[str, str]:
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {path} (config.audio.prompts): {error}") from error
  rows = list(csv.DictReader(io.StringIO(text)))
  if not rows or not {"file", "prompt"} <= set(rows[0]):
    raise UserError(f"{path} needs the columns file and prompt (config.audio.prompts)")
  return {pathlib.Path(row["file"]).name: row["prompt"] for row in rows if row["prompt"]}


def report_of(path: pathlib.Path) -> dict[str, Any]:
  """The report that `melody_jax.sample` wrote beside a file; empty where there is none."""
  try:
    report = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return report if isinstance(report, dict) else {}
