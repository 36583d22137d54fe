"""Where a result comes from: versions of this program and its packages, and the device."""

import importlib.metadata
import os
import platform

VERSION = "0.1.0"
# Stands inside every file that a command writes: only such a file is replaced without a word.
MARK = "written by melody_jax"
# Packages whose version can change the samples that are generated.
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "librosa")


def versions() -> dict[str, str]:
  """Versions of this program, of Python, and of the packages that can change the result."""
  found = {"melody_jax": VERSION, "python": platform.python_version()}
  for package in _PACKAGES:
    found[package] = importlib.metadata.version(package)
  return found


def device_name() -> str:
  """Name of the device for people: platform and kind; for a CPU its cores."""
  # Imported late: a caller that only asks for versions must not start JAX.
  import jax

  device = jax.devices()[0]
  if device.platform == "cpu":
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores)"
  return f"{device.platform} ({device.device_kind})"
