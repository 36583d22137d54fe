"""Puts the results of a sweep into a page of the docs: table, plot, and what they were made from.

    python launch/sweep.py gather NAME[:PRESET] DIR docs/results.md

The page has a place for each sweep, two lines between which everything is written anew:

    <!-- sweep NAME -->
    <!-- end of NAME -->

Beside the page, in a folder of its name, lie NAME.csv, NAME.png and NAME.json: what every run
measured and was made from.
"""

from collections.abc import Mapping, Sequence
import io
import pathlib
import re
import statistics
from typing import Any

# Of a result, what a number was made from; the folders that were named are not of this page.
_INPUTS = ("bundle_sha256", "reference_sha256", "split", "seed", "settings", "device", "versions")
_LISTED = ("scores", "metrics", "reference", "reference_clips", "windows", "seconds", "step")


class NoPlace(Exception):
  """Raised for a page that has no place for a sweep."""


def _cell(row: Mapping[str, Any], title: str) -> str:
  value, spread = row[title], row[f"{title} spread"]
  if value is None:
    return "not run" if not row["runs"] else "-"
  return f"{value:.3g}" if spread is None else f"{value:.3g} ± {spread:.2g}"


def table(rows: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> str:
  """A Markdown table of the settings, the runs, and mean ± standard deviation of every metric.

  Args:
    rows: As `sweep.rows_of` has them.
    titles: Titles of the metrics.
  """
  keys = [key for key in rows[0] if "." in key]
  header = [*(key.rsplit(".", 1)[-1] for key in keys), "runs", *titles]
  lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
  for row in rows:
    cells = [*(str(row[key]) for key in keys), str(row["runs"]), *(_cell(row, t) for t in titles)]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> bytes:
  """A picture in PNG of one panel a metric, a point a setting with its spread.

  Args:
    rows: As `sweep.rows_of` has them.
    titles: Titles of the metrics.
  """
  from matplotlib.figure import Figure

  settings = [key for key in rows[0] if "." in key]
  # What all runs share tells nothing.
  telling = [key for key in settings if len({str(row[key]) for row in rows}) > 1] or settings
  names = [", ".join(f"{k.rsplit('.', 1)[-1]} {row[k]}" for k in telling) for row in rows]
  size = (4.5 * len(titles) + 2, 0.4 * len(rows) + 1.5)
  figure = Figure(figsize=size, dpi=110, layout="constrained")
  for i, title in enumerate(titles):
    axes = figure.add_subplot(1, len(titles), i + 1)
    for y, row in enumerate(rows):
      if row[title] is not None:
        axes.errorbar(
          row[title], y, xerr=row[f"{title} spread"] or 0, fmt="o", color="#1d4ed8", capsize=3
        )
    axes.set(title=title, ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
    axes.set_yticklabels(names if i == 0 else [], fontsize=8)
    axes.grid(axis="x", alpha=0.3)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png")
  return buffer.getvalue()


def _one(values: Sequence[Any]) -> Any:
  """What all results agree on; None where they differ or do not say."""
  return values[0] if values and all(value == values[0] for value in values) else None


def made_from(results: Sequence[Mapping[str, Any]], metrics: Mapping[str, Sequence[str]]) -> str:
  """Lines on the models, the machine, the time and the held-out music of some results.

  Args:
    results: What the runs wrote.
    metrics: {title: keys in a result}.
  """
  parts = []
  for key, what in (("bundle_sha256", "bundle"), ("reference_sha256", "held-out music")):
    if value := _one([result.get(key) for result in results]):
      parts.append(f"{what} `{value[:12]}`")
  if device := _one([result.get("device") for result in results]):
    parts.append(str(device))
  seconds = [r["seconds"] for r in results if isinstance(r.get("seconds"), int | float)]
  if seconds:
    parts.append(
      f"{statistics.median(seconds):.0f} s a run in the median, {sum(seconds):.0f} in all"
    )
  if version := _one([(result.get("versions") or {}).get("melody_jax") for result in results]):
    parts.append(f"melody_jax {version}")
  lines = [f"{'; '.join(parts)}."] if parts else []
  real = results[0].get("reference")
  if isinstance(real, Mapping):
    known = {title: real.get(keys[-1]) for title, keys in metrics.items()}
    told = [f"{title} {value:.3g}" for title, value in known.items() if value is not None]
    count = results[0].get("reference_clips")
    lines.append(
      f"For comparison, {count} clips of held-out music: {', '.join(told)}"
      " (FAD and KAD of one half from the other; right family: permuted prompts)."
    )
  return "\n".join(lines)


def records(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """{run: what it measured and what from}, without folders of the machine that made it."""
  return {
    name: {key: result[key] for key in (*_LISTED, *_INPUTS) if key in result}
    for name, result in results.items()
  }


def fill(page: str, name: str, text: str) -> str:
  """The page with new text in the place of a sweep.

  Args:
    page: Markdown with the two lines of the head of this file.
    name: Name of the sweep.
    text: What shall stand between them.

  Raises:
    NoPlace: if the page does not have them.
  """
  begin, end = f"<!-- sweep {name} -->", f"<!-- end of {name} -->"
  place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
  if len(place.findall(page)) != 1:
    raise NoPlace(f"has no place for the sweep {name!r}: a line {begin} and a line {end}")
  return place.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", page)


def folder_of(page: pathlib.Path) -> pathlib.Path:
  """Where the files beside a page lie: docs/results for docs/results.md."""
  return page.with_suffix("")
