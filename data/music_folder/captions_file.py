"""Reads a captions file: CSV, JSONL or JSON, as people and programs write them.

Nothing of it is dropped without a word. What cannot be read for certain is refused, with the line
and the column; what is not understood is named.
"""

import ast
import codecs
import csv
import dataclasses
import difflib
import io
import json
import pathlib
import re
from typing import Any
import unicodedata

from data.captions import distinct
from data.files import some
from data.splits import TEST, TRAIN, VALIDATION
from melody_jax.errors import UserError

SPLITS = (TRAIN, VALIDATION, TEST)  # what the column `split` may hold
# Field of a row -> the names of columns that hold it, as public data sets call them.
COLUMNS = {
  "file": (
    "file", "file_name", "filename", "file_path", "filepath", "path", "audio", "audio_file",
    "audio_path", "audio_filename", "audio_filepath", "location", "wav", "ytid", "youtube_id",
  ),
  "captions": (
    "caption", "captions", "text", "texts", "description", "descriptions", "prompt", "prompts",
    "text_prompt", "sentence", "sentences",
  ),
  "tags": ("tags", "tag", "keywords", "keyword", "aspect_list", "genre", "genres"),
  "title": ("title",),
  "author": ("author", "authors", "artist", "artists", "composer", "composers"),
  "licence": ("licence", "license"),
  "split": ("split",),
}  # fmt: skip
_FIELDS = {column: field for field, columns in COLUMNS.items() for column in columns}
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_TYPING_SLIP = 0.85  # likeness, by difflib, from which a name counts as misspelt
_UNKNOWN_ENCODING = "save it as UTF-8"

# What text in a Western European language has beyond ASCII. Where other bytes occur, or many in a
# row, the file is in another of the many encodings, and guessing would garble it.
_WESTERN = set("\u20ac\u2026\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u2122") | set(
  map(chr, [0xA0, 0xA1, 0xA3, 0xA7, 0xA9, 0xAA, 0xAB, 0xAE, 0xB0, 0xB4, 0xB7, 0xBA, 0xBB, 0xBF])
) | {chr(code) for code in range(0xC0, 0x100) if code not in (0xD7, 0xF7)}  # fmt: skip
_LONGEST_RUN = 2  # letters beyond ASCII side by side


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a captions file.

  Attributes:
    line: Its number for messages: "line 3", or "entry 3" of a JSON array.
    file: File that it describes, as written.
    captions: Captions.
    tags: Tags.
    facts: Title, author, licence and split, those that are given.
  """

  line: str
  file: str
  captions: list[str]
  tags: list[str]
  facts: dict[str, str]


@dataclasses.dataclass(frozen=True)
class CaptionsFile:
  """Contents of a captions file.

  Attributes:
    rows: Its rows, in order.
    notes: Lines on how it was read, and on columns that were not understood.
  """

  rows: list[Row]
  notes: list[str]


def read_captions(path: pathlib.Path) -> CaptionsFile:
  """Reads a captions file.

  Args:
    path: JSON or JSONL if it ends in .jsonl, .ndjson or .json; otherwise CSV with commas,
      semicolons or tabs.

  Raises:
    UserError: The file cannot be read for certain: it says where and why.
  """
  try:
    data = path.read_bytes()
  except OSError as error:
    raise UserError(f"captions file {path} cannot be read: {error.strerror}") from error
  text, encoding = _decoded(data, path)
  notes = [f"captions file {path}: read as {encoding}"] if encoding else []
  if not text.strip():
    raise UserError(f"captions file {path} is empty: write a header and rows, or leave it out")
  if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
    entries = _json_entries(text, path)
  else:
    entries = _csv_entries(text, path)
  if not entries:
    raise UserError(f"captions file {path} has no rows: write rows, or leave it out")
  fields, unknown = _fields_of(list(dict.fromkeys(c for _, e in entries for c in e)), path)
  if unknown:
    notes.append(f"captions file {path}: columns that were not understood: {', '.join(unknown)}")
  return CaptionsFile([_row(where, e, fields, path) for where, e in entries], notes)


# Bytes to text.


def _decoded(data: bytes, path: pathlib.Path) -> tuple[str, str]:
  """(text, name of its encoding; empty for UTF-8)."""
  for mark, encoding, name in (
    (codecs.BOM_UTF8, "utf-8-sig", ""),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
  ):
    if data.startswith(mark):
      return _strictly(data, encoding, path), name
  if b"\0" in data:
    # A header in UTF-16 has one in every other byte.
    order = {0: "utf-16-be", 1: "utf-16-le"}.get(data.find(b"\0"))
    text = _strictly(data, order, path) if order else "\0"
    if "\0" in text or not text[:4].isascii():
      raise UserError(f"captions file {path} holds zero bytes: {_UNKNOWN_ENCODING}")
    return text, "UTF-16"
  try:
    return data.decode("utf-8"), ""
  except UnicodeDecodeError as error:
    where = f"line {data.count(bytes([10]), 0, error.start) + 1}"
  try:
    text = data.decode("cp1252")
  except UnicodeDecodeError:
    text = ""
  beyond = [letter for letter in text if not letter.isascii()]
  runs = re.findall(r"[\xc0-\xff]+", text)
  if not text or set(beyond) - _WESTERN or max(map(len, runs), default=0) > _LONGEST_RUN:
    raise UserError(
      f"captions file {path}, {where}: neither UTF-8 nor clearly Latin-1: {_UNKNOWN_ENCODING}"
    )
  return text, "Latin-1 (Windows-1252), as it is not UTF-8; save it as UTF-8 if letters are wrong"


def _strictly(data: bytes, encoding: str, path: pathlib.Path) -> str:
  try:
    return data.decode(encoding)
  except UnicodeDecodeError as error:
    raise UserError(f"captions file {path} is damaged {encoding}: {_UNKNOWN_ENCODING}") from error


# Text to entries: (line for messages, {column: values}).
Entries = list[tuple[str, dict[str, list[Any]]]]


def _csv_entries(text: str, path: pathlib.Path) -> Entries:
  delimiter, header, records = _csv_records(text, path)
  entries: Entries = []
  for number, record in records:
    where = f"captions file {path}, line {number}"
    # A spreadsheet writes its empty columns too.
    while len(record) > len(header) and not record[-1].strip():
      record.pop()
    if len(record) > len(header):
      last = header[-1]
      raise UserError(
        f"{where}: {len(record)} fields for {len(header)} columns: put quotes around a text with"
        f" {_DELIMITERS[delimiter]} in it (after column {last!r} comes {record[len(header)]!r})"
      )
    if len(record) < len(header):
      raise UserError(
        f"{where}: no field for column {header[len(record)]!r}: put quotes around a text with a"
        f" line break in it, and leave empty fields between {_DELIMITERS[delimiter]}"
      )
    entry: dict[str, list[Any]] = {}
    for column, value in zip(header, record, strict=True):
      _check_line_breaks(value, delimiter, f"{where}, column {column!r}")
      # Two columns of one name hold two captions.
      entry.setdefault(column, []).append(value)
    entries.append((f"line {number}", entry))
  return entries


def _check_line_breaks(value: str, delimiter: str, where: str) -> None:
  """Refuses a field that has swallowed a row: a quote was not closed, and a later one closed it."""
  for line in value.splitlines()[1:]:
    if re.match(rf'[^{re.escape(delimiter)}]*\.\w{{2,4}}"?\s*{re.escape(delimiter)}', line):
      raise UserError(f"{where}: a quote is not closed: the text goes on into {line.strip()!r}")


def _csv_records(text: str, path: pathlib.Path) -> tuple[str, list[str], list]:
  """(delimiter, header, [(number of the first line, fields)]) of a CSV file."""
  # Excel's own way to name the delimiter.
  match = re.match(r"sep=(.)\r?\n", text)
  skipped = 1 if match else 0
  text = text[match.end() :] if match else text
  first = next(line for line in io.StringIO(text, newline="") if line.strip())

  def known(delimiter: str) -> int:
    return sum(_standard(column) in _FIELDS for column in first.split(delimiter))

  delimiter = max(_DELIMITERS, key=lambda d: (known(d), first.count(d)))
  # newline="": line breaks inside quotes stay, and none but \r and \n counts as one.
  reader = csv.reader(
    io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
  )
  rows, begins = [], 1 + skipped
  try:
    for record in reader:
      if any(field.strip() for field in record):
        rows.append((begins, record))
      begins = reader.line_num + 1 + skipped
  except csv.Error as error:
    raise UserError(
      f"captions file {path}, line {begins}: {error}: is a quote not closed, or not doubled inside"
      " quotes?"
    ) from error
  (_, header), *records = rows
  return delimiter, [column.strip() for column in header], records


def _json_entries(text: str, path: pathlib.Path) -> Entries:
  """Entries of a JSON array, of a JSON object {file: caption or entry}, or of a line each."""
  start = text.lstrip()[0]
  # Not splitlines: texts may hold other ends of lines than JSON's.
  lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
  if start != "[":
    try:
      entries = [(f"line {i}", _json(line)) for i, line in lines]
    except json.JSONDecodeError as error:
      try:
        whole = _json(text)
      except json.JSONDecodeError:
        wrong = next(i for i, line in lines if not _is_json(line))
        raise UserError(
          f"captions file {path}, line {wrong}: malformed JSON: {error.msg} (column {error.colno})"
        ) from error
      entries = [("the one entry", whole)]
  else:
    try:
      entries = [(f"entry {i}", entry) for i, entry in enumerate(_json(text), 1)]
    except json.JSONDecodeError as error:
      raise UserError(
        f"captions file {path}, line {error.lineno}: malformed JSON: {error.msg}"
      ) from error
  if len(entries) == 1 and isinstance(entries[0][1], dict):
    whole = entries[0][1]
    if not any(_standard(name) in _FIELDS for name in whole):
      entries = [
        (f"entry {name!r}", {**value, "file": name} if isinstance(value, dict) else
         {"file": name, "caption": value})
        for name, value in whole.items()
      ]  # fmt: skip
  for where, entry in entries:
    if not isinstance(entry, dict):
      raise UserError(f"captions file {path}, {where}: not an object of names and values")
  return [(where, {name: [value] for name, value in entry.items()}) for where, entry in entries]


def _json(text: str) -> Any:
  """What JSON says; a name that stands twice in an object has both values, not the last alone.

  Raises:
    json.JSONDecodeError: It is no JSON.
  """

  def merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
      before = found.get(name, [])
      more = value if isinstance(value, list) else [value]
      found[name] = (
        [*(before if isinstance(before, list) else [before]), *more] if name in found else value
      )
    return found

  try:
    return json.loads(text, object_pairs_hook=merged)
  except RecursionError as error:
    raise json.JSONDecodeError("brackets within brackets, thousands deep", text, 0) from error


def _is_json(line: str) -> bool:
  try:
    _json(line)
  except json.JSONDecodeError:
    return False
  return True


# Columns and values.


def _standard(column: str) -> str:
  """A column's name without what people write differently: case, blanks, hyphens, a number."""
  name = unicodedata.normalize("NFKC", str(column)).strip().strip("\"'").casefold()
  return re.sub(r"_?\d+$", "", re.sub(r"[\s\-]+", "_", name))


def _fields_of(columns: list[str], path: pathlib.Path) -> tuple[dict[str, str], list[str]]:
  """({column: field}, columns that are none), with one column for the file and one for each fact.

  Raises:
    UserError: There is no column for the file, or a column is misspelt.
  """
  fields = {c: _FIELDS[_standard(c)] for c in columns if _standard(c) in _FIELDS}
  for field, names in COLUMNS.items():
    if field not in ("captions", "tags"):  # of these all columns count
      have = [
        c for name in names for c in columns if fields.get(c) == field and _standard(c) == name
      ]
      for spare in have[1:]:
        del fields[spare]
  unknown = [column for column in columns if column not in fields]
  slips = {column: _nearest(column) for column in unknown}
  wrong = [
    f"{column!r} (did you mean {name!r}?)"
    for column, name in slips.items()
    if name and _FIELDS[name] not in fields.values()
  ]
  if wrong:
    raise UserError(f"captions file {path}: columns that are not understood: {', '.join(wrong)}")
  if "file" not in fields.values():
    raise UserError(
      f"captions file {path}, line 1: no column 'file' among {some([repr(c) for c in columns])}:"
      " the first line names the columns, for example file,caption"
    )
  return fields, [repr(column) for column in unknown if str(column).strip()]


def _nearest(column: str) -> str:
  """The known name that a column's name is a slip of; empty if there is none."""
  name = _standard(column)
  swapped = [known for known in _FIELDS if len(name) > 3 and sorted(known) == sorted(name)]
  return next(iter(swapped or difflib.get_close_matches(name, _FIELDS, 1, _TYPING_SLIP)), "")


def _row(
  where: str, entry: dict[str, list[Any]], fields: dict[str, str], path: pathlib.Path
) -> Row:
  given: dict[str, list[str]] = {field: [] for field in COLUMNS}
  for column, values in entry.items():
    field = fields.get(column)
    for value in values if field else ():
      place = f"captions file {path}, {where}, column {column!r}"
      given[str(field)] += _texts(value, str(field), place)
  if not given["file"]:
    column = next(column for column, field in fields.items() if field == "file")
    raise UserError(
      f"captions file {path}, {where}: no {column!r}; give a path relative to the folder"
    )
  facts = {name: given[name][0] for name in ("title", "author", "licence", "split") if given[name]}
  if facts.get("split", TRAIN) not in SPLITS:
    raise UserError(
      f"captions file {path}, {where}: split {facts['split']!r} is not one of {', '.join(SPLITS)}"
    )
  return Row(where, given["file"][0], distinct(given["captions"]), distinct(given["tags"]), facts)


def _texts(value: Any, field: str, where: str) -> list[str]:
  """Texts of one value: a text, a list, or a list as Python prints it (MusicCaps has such)."""
  if isinstance(value, str) and field == "tags" and re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL):
    try:
      value = ast.literal_eval(value.strip())
    except (SyntaxError, ValueError) as error:
      raise UserError(f"{where}: {value!r} is no list") from error
  if isinstance(value, list) and field != "file":
    return [text for part in value if (text := _text(part, field, where))]
  separator = {"captions": "|", "tags": ","}.get(field)
  text = _text(value, field, where)
  parts = text.split(separator) if separator else [text]
  return [part.strip() for part in parts if part.strip()]


def _text(value: Any, field: str, where: str) -> str:
  if value is None or value != value:  # not a number: so pandas writes what is missing
    return ""
  if not isinstance(value, str | int | float):
    raise UserError(f"{where}: {value!r} is no text")
  # A name is taken as it is. In captions a line break of any kind is a blank.
  return str(value).strip() if field == "file" else " ".join(str(value).split())
