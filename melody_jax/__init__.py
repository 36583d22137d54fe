"""MeLoDy in JAX/Flax: text or music in, 24 kHz music out (arXiv 2305.15719).

from melody_jax import Melody, Request
music = Melody.load("checkpoints/nano").generate(Request(prompt="slow bossa nova", seed=1))
"""

import importlib
from typing import TYPE_CHECKING, Any

from melody_jax.command_line import signals
from melody_jax.host import cache_folders
from melody_jax.provenance import VERSION

if TYPE_CHECKING:
  from melody_jax.generation.melody import Melody as Melody
  from melody_jax.generation.melody import Music as Music
  from melody_jax.generation.request import Prompt as Prompt
  from melody_jax.generation.request import Request as Request
  from melody_jax.generation.request import Settings as Settings

__version__ = VERSION

signals.end_quietly_while_importing()
# First of all: once numba or matplotlib is imported, it is too late.
cache_folders.prepare()

_PUBLIC = {
  "Melody": "melody_jax.generation.melody",
  "Music": "melody_jax.generation.melody",
  "Prompt": "melody_jax.generation.request",
  "Request": "melody_jax.generation.request",
  "Settings": "melody_jax.generation.request",
}


def __getattr__(name: str) -> Any:
  # Late, so that importing a part of the program does not import JAX and all models.
  if name in _PUBLIC:
    return getattr(importlib.import_module(_PUBLIC[name]), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *_PUBLIC])
