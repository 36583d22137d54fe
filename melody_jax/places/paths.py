"""Paths as users write them: `~` is their home, wherever a path is taken.

A shell expands `~` at the beginning of a word only: not in --config.out=~/x.wav, which bash leaves
to the program, not after a comma, not between quotes.
"""

import os
import pathlib

import ml_collections

from melody_jax.config import keys_of

PACKAGE = pathlib.Path(__file__).resolve().parents[1]  # the folder melody_jax
CHECKOUT = PACKAGE.parent  # of an installed wheel: site-packages, where nothing of ours lies

# Keys of configs that hold one path. tests/places/test_paths.py knows all other texts by name, so
# that a new key is put on one side or the other.
PATH_KEYS = frozenset(
  (
    "audio",
    "audio.notes",
    "audio.prompts",
    "bundle",
    "checkpoint",
    "conditioning.style_codebooks",
    "export.bundle",
    "generated",
    "model.music_init",
    "model.text_init",
    "music_prompt",
    "out",
    "prompts",
    "reference",
    "source",
    "stream.resume",
    "stream.save",
    "train.init_from",
    "train.judge",
    "training",
  )
)
# Keys that hold several with commas between them, each perhaps with a name: "a=~/x,b=~/y".
PATH_LIST_KEYS = frozenset(("audio.embeddings", "data", "data.path"))


def expand(path: str) -> str:
  """A path with `~` or `~user` at its beginning replaced by that home; others as they are."""
  return os.path.expanduser(path) if path.startswith("~") else path


def expand_list(paths: str) -> str:
  """Comma-separated paths, each expanded; a name and "=" may stand before one."""
  expanded = []
  for part in paths.split(","):
    name, equals, path = part.partition("=")
    expanded.append(f"{name}={expand(path)}" if equals else expand(part.strip()))
  return ",".join(expanded)


def expand_config(config: ml_collections.ConfigDict) -> None:
  """Expands all paths of a config, in place."""
  for key, value in list(keys_of(config)):
    if isinstance(value, str) and key in PATH_KEYS | PATH_LIST_KEYS:
      config.update_from_flattened_dict(
        {key: expand(value) if key in PATH_KEYS else expand_list(value)}
      )


def argument(path: str) -> pathlib.Path:
  """A path of the command line, for argparse: `type=argument`."""
  return pathlib.Path(expand(path))
