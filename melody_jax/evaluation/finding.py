"""What an evaluation found: a JSON file to compute with, a Markdown snippet to read."""

from collections.abc import Iterable
import dataclasses
import json
import math
import pathlib
from typing import Any

from melody_jax.errors import UserError
from melody_jax.output_files import check_new_folder, check_outputs, write_files
from melody_jax.places import buckets
from melody_jax.provenance import MARK

SUFFIXES = (".json", ".md", ".csv", ".html")  # of all files that a finding may have


@dataclasses.dataclass(frozen=True)
class Finding:
  """The result of one evaluation.

  Attributes:
    what: Name of the evaluation, used as the stem of its files.
    values: Numbers that JSON can hold.
    markdown: Snippet for the model card, without a heading.
    others: Further files by their suffix, one of SUFFIXES; each bears the program's mark.
  """

  what: str
  values: dict[str, Any]
  markdown: str
  others: dict[str, bytes] = dataclasses.field(default_factory=dict)


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
  """A Markdown table. Floats have three significant digits; columns of numbers align right."""
  numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
  lines = [
    "| " + " | ".join(header) + " |",
    "| " + " | ".join("---:" if n else "---" for n in numeric) + " |",
  ]
  lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
  return "\n".join(lines)


def cell(value: Any) -> str:
  """One value as it appears in a table."""
  if value is None:
    return "-"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, float):
    return number(value)
  return str(value).replace("|", "\\|")


def number(value: float) -> str:
  """A number with three significant digits, without an exponent where that stays short."""
  if not math.isfinite(value):
    return str(value)
  if value and not 1e-4 <= abs(value) < 1e6:
    return f"{value:.2e}"
  digits = 2 - (math.floor(math.log10(abs(value))) if value else 0)
  return f"{value:.{min(max(digits, 0), 6)}f}"


def _plain(value: Any) -> Any:
  """A value that JSON can hold; NaN and infinity become None, as strict readers refuse them."""
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  # Scalars and arrays of NumPy and JAX, without importing either of them here.
  if hasattr(value, "item") and not getattr(value, "shape", ()):
    value = value.item()
  if hasattr(value, "tolist"):
    return _plain(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _paths(out: str, what: str, suffixes: Iterable[str] = SUFFIXES) -> list[Any]:
  return [buckets.path_of(out) / f"{what}{suffix}" for suffix in suffixes]


def check_out(out: str, names: Iterable[str]) -> None:
  """Checks before the work that findings can be written after it.

  Args:
    out: Directory of the findings (config.out).
    names: Names of the evaluations.

  Raises:
    UserError: if the directory cannot be made or written, or holds files of these names that
      melody_jax did not write.
  """
  check_new_folder(out)
  if not buckets.in_bucket(out) and pathlib.Path(out).is_dir():
    check_outputs([path for name in names for path in _paths(out, name)])


def write(finding: Finding, out: str, context: dict[str, Any]) -> list[Any]:
  """Writes `<out>/<what>.json`, `<out>/<what>.md` and what else there is, all or none of them.

  Args:
    finding: Result to write.
    out: Directory, made where it is missing.
    context: Further values for the JSON file, for example the bundle and the versions.

  Returns:
    Paths of the files.

  Raises:
    UserError: if the directory cannot be made or written.
  """
  folder = buckets.path_of(out)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make the directory {out} (config.out): {error.strerror}") from error
  values = json.dumps(_plain({"what": finding.what, **context, **finding.values}), indent=2)
  markdown = f"{finding.markdown.rstrip()}\n\n<!-- {MARK} -->\n"
  contents = {".json": (values + "\n").encode(), ".md": markdown.encode(), **finding.others}
  files = dict(zip(_paths(out, finding.what, contents), contents.values(), strict=True))
  # Together: a table must not stand beside numbers of an older run.
  write_files(files)
  return list(files)
