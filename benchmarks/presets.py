"""Loads configs of configs/ for benchmarks."""

import importlib.util
import pathlib
from typing import Any

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def load_config(name: str, preset: str) -> Any:
  """Result of `get_config(preset)` in configs/<name>.py."""
  spec = importlib.util.spec_from_file_location(f"configs_{name}", CONFIGS / f"{name}.py")
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(preset)
