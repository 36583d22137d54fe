"""Reports of the sampling benchmark: printed lines, Markdown tables, a plot, and JSON."""

import json
import math
import pathlib
from typing import Any

from melody_jax.generation.window import SEMANTIC_RATE

Row = dict[str, Any]

# Network passes per second of audio, as the paper counts (docs/spec.md, section 8).
MUSICLM_RATE = 625
PAPER = {10.0: "95.7 %", 30.0: "99.6 %"}


def figure(x: float | None) -> str:
  """A number with three significant digits, without an exponent; "-" for None."""
  if x is None:
    return "-"
  if x == 0 or not math.isfinite(x):
    return str(x)
  digits = max(0, 2 - math.floor(math.log10(abs(x))))
  return f"{x:,.{digits}f}"


def table(header: list[str], rows: list[list[str]]) -> str:
  """A Markdown table with columns that align right."""
  lines = ["| " + " | ".join(header) + " |", "|" + " ---: |" * len(header)]
  return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def text_columns(header: list[str], rows: list[list[str]]) -> str:
  """A table for the terminal, with columns that align right."""
  widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
  return "\n".join(
    "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    for row in [header, *rows]
  )


FLOOR_HEADER = [
  "audio s", "batch", "steps", "stage", "passes", "GFLOP", "weights GB", "caches GB", "compute s",
  "memory s", "floor s",
]  # fmt: skip


def floor_row(seconds: float, batch: int, steps: int | str, stage: str, f: Row) -> list[str]:
  """One line of the table of floors; `f` is a `floor.Floor` as a dict."""
  return [
    figure(seconds), str(batch), str(steps), stage, str(f["passes"]), figure(f["flops"] / 1e9),
    figure(f["weight_bytes"] / 1e9), figure(f["cache_bytes"] / 1e9), figure(f["compute_seconds"]),
    figure(f["memory_seconds"]), figure(f["seconds"]),
  ]  # fmt: skip


STAGE_HEADER = [
  "audio s", "batch", "steps", "stage", "passes", "floor s", "compile s", "first call s",
  "warm s", "% of floor", "% of matmul rate", "scratch MB",
]  # fmt: skip


def stage_rows(row: Row) -> list[list[str]]:
  """One line for each stage of a measured piece."""
  lines = []
  for name, s in row["stages"].items():
    scratch = s["scratch_bytes"]
    lines.append([
      figure(row["seconds"]), str(row["batch"]), str(row.get("steps", "-")), name,
      str(s["passes"]), figure(s["floor"]["seconds"]), figure(s["compile_seconds"]),
      figure(s["first_seconds"]), figure(s["warm_seconds"]), figure(100 * s["share_of_floor"]),
      figure(100 * s["share_of_matmul_rate"]), figure(None if scratch is None else scratch / 1e6),
    ])  # fmt: skip
  return lines


SPEED_HEADER = [
  "system", "audio s", "batch", "steps", "NFE", "floor s", "compile s", "warm s", "audio s per s",
]  # fmt: skip


def speed_rows(system: str, rows: list[Row]) -> list[list[str]]:
  """One line for each measured piece as a whole."""
  return [
    [
      system, figure(r["seconds"]), str(r["batch"]), str(r.get("steps", "-")), str(r["nfe"]),
      figure(r.get("floor_seconds")), figure(r.get("compile_seconds")),
      figure(r["warm_seconds"]), figure(r["audio_seconds_per_second"]),
    ]
    for r in rows
    if "failed" not in r
  ]  # fmt: skip


def comparisons(result: Row) -> list[Row]:
  """Compares MeLoDy with the cascade, at every length and batch size that both have."""
  found = []
  for ours in result["melody"]:
    for theirs in result["cascade"]:
      if "failed" in ours or "failed" in theirs:
        continue
      if any(ours[key] != theirs[key] for key in ("asked_seconds", "batch")):
        continue
      seconds = ours["seconds"]
      paper_count = SEMANTIC_RATE * seconds + ours["steps"]
      found.append({
        "seconds": seconds, "batch": ours["batch"], "steps": ours["steps"],
        "nfe": ours["nfe"], "cascade_nfe": theirs["nfe"],
        "fewer": 1 - ours["nfe"] / theirs["nfe"],
        "formula_fewer": 1 - paper_count / (MUSICLM_RATE * seconds),
        "warm_seconds": ours["warm_seconds"], "cascade_warm_seconds": theirs["warm_seconds"],
        "wall_time_ratio": theirs["warm_seconds"] / ours["warm_seconds"],
      })  # fmt: skip
  return found


COMPARISON_HEADER = [
  "audio s", "batch", "steps", "NFE", "cascade NFE", "fewer", "by formula", "the paper says",
  "warm s", "cascade warm s", "times faster",
]  # fmt: skip


def comparison_rows(result: Row) -> list[list[str]]:
  """The `comparisons` as lines; the paper gives figures for 20 steps only."""
  return [
    [
      figure(c["seconds"]), str(c["batch"]), str(c["steps"]), str(c["nfe"]), str(c["cascade_nfe"]),
      f"{100 * c['fewer']:.1f} %", f"{100 * c['formula_fewer']:.1f} %",
      PAPER.get(c["seconds"], "-") if c["steps"] == 20 else "-", figure(c["warm_seconds"]),
      figure(c["cascade_warm_seconds"]), figure(c["wall_time_ratio"]),
    ]
    for c in comparisons(result)
  ]  # fmt: skip


def facts(result: Row) -> list[tuple[str, str]]:
  """Hardware, versions and settings as (name, value) pairs."""
  bandwidths = ", ".join(
    f"{figure(rate / 1e9)} over {size} MiB" for size, rate in sorted(result["bandwidths"].items())
  )
  rates = ", ".join(f"{figure(r / 1e9)} in {d}" for d, r in result["matmul_rates"].items())
  return [
    ("device", result["device"]),
    ("matmul, GFLOP/s", rates),
    ("memory, GB/s by working set", bandwidths),
    ("versions", ", ".join(f"{k} {v}" for k, v in result["versions"].items())),
    ("preset, weights", f"{result['preset']}, {result['weights']}"),
    ("parameters", ", ".join(f"{k} {v / 1e6:.1f} M" for k, v in result["parameters"].items())),
    ("dtype", ", ".join(f"{k} {v}" for k, v in result["dtypes"].items())),
    ("guidance, schedule", f"{result['guidance_scale']}, {result['schedule']}"),
    ("peak memory of the device, GB", figure(result.get("peak_memory_gb"))),
    ("command", f"`{result['command']}`"),
  ]


def musicgen_note(result: Row) -> str:
  """A sentence on what the MusicGen rows are, or why there are none."""
  found = result["musicgen"]
  if isinstance(found, dict):
    return f"MusicGen was not run: {found['skipped']}.\n"
  if not found:
    return "MusicGen was not asked for.\n"
  r = found[0]
  length = "the same length" if r["seconds"] == result["grid_seconds"] else "a shorter piece"
  return (
    f"MusicGen: `small` shape ({r['parameters'] / 1e6:.0f} M parameters in the decoder), random"
    f" weights, transformers on {r['device']} in {r['dtype']}, {length}"
    f" ({figure(r['seconds'])} s of audio); compare audio seconds a second.\n"
  )


def markdown(result: Row) -> str:
  """The Markdown page of one run, to be committed as it is."""
  stages = [line for row in result["melody"] if "failed" not in row for line in stage_rows(row)]
  acoustic = [line for row in result["cascade"] if "failed" not in row for line in stage_rows(row)]
  floor_lines = [floor_row(*line) for line in result["floors"]]
  failed = [
    f"- {kind}, {figure(r['asked_seconds'])} s, batch {r['batch']}: {r['failed']}"
    for kind in ("melody", "cascade")
    for r in result[kind]
    if "failed" in r
  ]
  speed = speed_rows("MeLoDy", result["melody"])
  speed += speed_rows("MeLoDy, the public sampler", result["sampler"])
  speed += speed_rows("cascade, without codec", result["cascade"])
  if isinstance(result["musicgen"], list):
    speed += speed_rows("MusicGen small", result["musicgen"])
  parts = [
    f"# Sampling: {result['preset']} on {result['device']}\n",
    "Written by `python -m benchmarks.sample`; docs/benchmarks.md says what the columns mean.\n",
    "| | |\n| --- | --- |\n" + "".join(f"| {k} | {v} |\n" for k, v in facts(result)),
    "## Floor\n", table(FLOOR_HEADER, floor_lines),
    "## Stages\n", table(STAGE_HEADER, stages),
    "## Whole pieces\n", table(SPEED_HEADER, speed), musicgen_note(result),
  ]  # fmt: skip
  if result["cascade"]:
    parts += [
      "## Against a MusicLM-shaped cascade\n", table(COMPARISON_HEADER, comparison_rows(result)),
      "Its stages:\n", table(STAGE_HEADER, acoustic),
    ]  # fmt: skip
  if failed:
    parts += ["## Not measured\n", "\n".join(failed) + "\n"]
  return "\n".join([*parts, "![Speed, passes and stages](sample.png)\n"])


def write(result: Row, directory: pathlib.Path) -> None:
  """Writes sample.json, sample.md and sample.png of one run into a directory, made if missing."""
  directory.mkdir(parents=True, exist_ok=True)
  # JSON keeps full precision; the tables are rounded.
  full = result | {"comparisons": comparisons(result)}
  text = json.dumps(full, indent=2, ensure_ascii=False) + "\n"
  (directory / "sample.json").write_text(text, encoding="utf-8")
  (directory / "sample.md").write_text(markdown(result), encoding="utf-8")
  plot(result, directory / "sample.png")


def plot(result: Row, path: pathlib.Path) -> None:
  """Plots speed by steps and batch, passes by length, and stages of a piece beside their floor."""
  # Without pyplot, which may ask for a display.
  from matplotlib.figure import Figure

  canvas = Figure(figsize=(13, 4), layout="constrained")
  speed, passes, stages = canvas.subplots(1, 3)
  measured = [r for r in result["melody"] if "failed" not in r]
  _plot_speed(speed, result, [r for r in measured if r["asked_seconds"] == result["grid_seconds"]])
  _plot_passes(passes, result)
  if measured:
    _plot_stages(stages, measured[0])
  canvas.suptitle(f"{result['preset']} on {result['device']}")
  canvas.savefig(path, dpi=120)


def _plot_speed(axis: Any, result: Row, rows: list[Row]) -> None:
  for batch in sorted({r["batch"] for r in rows}):
    of_batch = sorted((r for r in rows if r["batch"] == batch), key=lambda r: r["steps"])
    axis.plot(
      [r["steps"] for r in of_batch], [r["audio_seconds_per_second"] for r in of_batch],
      "o-", label=f"MeLoDy, batch {batch}",
    )  # fmt: skip
  others = [("cascade", r, "--") for r in result["cascade"] if "failed" not in r]
  if isinstance(result["musicgen"], list):
    others += [("MusicGen small", r, ":") for r in result["musicgen"]]
  for name, r, style in others:
    if name != "cascade" or r["asked_seconds"] == result["grid_seconds"]:
      label = f"{name}, batch {r['batch']}"
      axis.axhline(r["audio_seconds_per_second"], ls=style, c="0.4", lw=1)
      axis.annotate(label, (1, r["audio_seconds_per_second"]), fontsize=7,
                    xycoords=("axes fraction", "data"), ha="right", va="bottom")  # fmt: skip
  axis.set(xlabel="denoising steps", ylabel="audio seconds a second")
  if rows:
    axis.set_yscale("log")
    axis.set_xticks(sorted({r["steps"] for r in rows}))
    axis.legend(fontsize=7)


def _plot_passes(axis: Any, result: Row) -> None:
  pieces = {(r["seconds"], r["steps"]): r["nfe"] for r in result["melody"] if "failed" not in r}
  cascade = {(c["seconds"], c["steps"]): c["cascade_nfe"] for c in comparisons(result)}
  places = sorted(pieces)
  for offset, counts, name in ((-0.2, pieces, "MeLoDy"), (0.2, cascade, "cascade")):
    at = [i + offset for i, place in enumerate(places) if place in counts]
    heights = [counts[place] for place in places if place in counts]
    if heights:
      axis.bar_label(axis.bar(at, heights, 0.4, label=name), fontsize=7)
      axis.set_yscale("log")
  axis.set_xticks(range(len(places)), [f"{s:g} s\n{n} steps" for s, n in places], fontsize=7)
  axis.set(ylabel="network passes, counted")
  if places:
    axis.legend(fontsize=7)


def _plot_stages(axis: Any, row: Row) -> None:
  names = list(row["stages"])
  for offset, name in ((-0.2, "floor"), (0.2, "measured")):
    heights = [
      s["floor"]["seconds"] if name == "floor" else s["warm_seconds"]
      for s in row["stages"].values()
    ]
    drawn = axis.bar([i + offset for i in range(len(names))], heights, 0.4, label=name)
    axis.bar_label(drawn, fmt=figure, fontsize=7)
  axis.set_xticks(range(len(names)), names)
  axis.set(ylabel=f"seconds for {row['seconds']:g} s, batch {row['batch']}, {row['steps']} steps")
  axis.legend(fontsize=7)
