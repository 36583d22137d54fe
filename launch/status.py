"""Where a recipe stands: each stage with its step, loss, held-out loss and time left.

    launch/nano.sh status

Reads the marks of finished stages and the progress.json of each run. Plain Python: no JAX is
loaded, so it can be asked while the recipe trains.
"""

import argparse
import datetime
import json
import pathlib
import time
from typing import Any

# Seconds without a line after which that is said: a run may have stopped, or compile.
_SILENT = 600.0
_HEADER = ("stage", "state", "step", "loss", "held-out loss", "time left")


def _clock(seconds: float) -> str:
  minutes = int(seconds) // 60
  return f"{minutes // 60} h {minutes % 60:02d} min"


def _progress(run: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads((run / "progress.json").read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
  except (OSError, ValueError):
    return {}  # not begun, or written at this moment


def _loss(figures: Any) -> str:
  value = figures.get("loss") if isinstance(figures, dict) else None
  return f"{value:.4g}" if isinstance(value, int | float) else ""


def row(root: pathlib.Path, stage: str, now: float) -> tuple[str, ...]:
  """Cells of one stage, as in _HEADER.

  Args:
    root: Directory of the recipe's runs.
    stage: Name of the stage; train_x trains in `root`/x.
    now: Seconds since 1970.
  """
  mark = root / "done" / stage
  done = mark.read_text(encoding="utf-8").strip() if mark.is_file() else ""
  kind, _, model = stage.partition("_")
  p = _progress(root / model) if kind == "train" else {}
  state = f"done {done}" if done else "waiting"
  left = ""
  if p and not done:
    silent = now - p.get("time", now)
    state = "training" if silent < _SILENT else f"silent for {_clock(silent)}"
    left = _clock(p.get("eta_seconds", 0.0)) if silent < _SILENT else ""
  step = f"{p['step']} of {p['steps']}" if p.keys() >= {"step", "steps"} else ""
  held_out = _loss(p.get("validation"))
  if held_out:
    held_out += f" at {p.get('validation_step', '?')}"
  return stage, state, step, _loss(p.get("train")), held_out, left


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("root", type=pathlib.Path, help="directory of the recipe's runs")
  parser.add_argument("stages", nargs="+", help="names of the stages, in order")
  arguments = parser.parse_args()
  rows = [_HEADER, *(row(arguments.root, s, time.time()) for s in arguments.stages)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  print(f"{arguments.root}, {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")
  for cells in rows:
    print("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip())


if __name__ == "__main__":
  main()
