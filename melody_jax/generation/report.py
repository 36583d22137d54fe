"""The JSON report that lies beside every sample: what was asked, what it cost, what ran it."""

import importlib.metadata
import json
import math
import os
import platform
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "librosa")


def versions() -> dict[str, str]:
  """Versions of this program, of Python and of the packages that shape the result."""
  import melody_jax

  found = {"melody_jax": melody_jax.__version__, "python": platform.python_version()}
  for package in _PACKAGES:
    found[package] = importlib.metadata.version(package)
  return found


def device_name() -> str:
  """What computes, for people: platform, kind, and cores where it is the CPU."""
  import jax

  device = jax.devices()[0]
  if device.platform == "cpu":
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores)"
  return f"{device.platform} ({device.device_kind})"


def to_json(report: dict[str, Any]) -> bytes:
  """The report as indented UTF-8 JSON; numbers that JSON lacks become null."""

  def clean(value: Any) -> Any:
    if isinstance(value, dict):
      return {k: clean(v) for k, v in value.items()}
    if isinstance(value, float):
      return round(value, 4) if math.isfinite(value) else None
    return value

  return (json.dumps(clean(report), indent=2, ensure_ascii=False) + "\n").encode("utf-8")
