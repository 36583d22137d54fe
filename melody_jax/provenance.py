"""What made a file: this program's version, those of its packages, and the device."""

import importlib.metadata
import os
import platform

VERSION = "0.1.0"
# Packages that shape the result.
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "librosa")


def versions() -> dict[str, str]:
  """Versions of this program, of Python and of the packages that shape the result."""
  found = {"melody_jax": VERSION, "python": platform.python_version()}
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
