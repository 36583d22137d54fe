"""`--help`: how a command is called, and every key of its config with default and meaning.

The meanings are the comments of the config page, on the line of the key or above it; there is no
second text that could grow old. Presets are what the page's `get_config` takes.
"""

import ast
from collections.abc import Mapping
import inspect
import io
import pathlib
import re
import textwrap
import tokenize
from types import ModuleType
from typing import Any

from melody_jax.config import keys_of as config_keys
from melody_jax.errors import ChoiceError
from melody_jax.places import config_pages

_WIDTH = 100  # characters of a line
# Pages that describe sizes, beside those in models/ that are named as the task is.
_MORE_PAGES = {
  "dpd": ("models/denoiser.py",),
  "unet_1d": ("denoisers/unet.py",),
  "unet_2d": ("denoisers/unet.py",),
}
_COLUMN = 44  # where meanings begin


def comments(source: str) -> dict[str, str]:
  """Meanings of the keys that a page sets, {name as it stands there without its root: text}.

  `c.lm.top_k = 0  # 0: all` gives {"lm.top_k": "0: all"}. A comment above the line counts where
  the line has none; a comment of several lines is one text.

  Args:
    source: Text of a config page.
  """
  remarks = _remarks(source)
  found: dict[str, str] = {}
  for node in ast.walk(ast.parse(source)):
    names: list[tuple[str, int, int]] = []
    if isinstance(node, ast.Assign):
      # Of `c.what, _, size = ...` the first one is the key.
      targets = [t.elts[0] if isinstance(t, ast.Tuple) else t for t in node.targets]
      names = [(ast.unparse(target), node.lineno, node.end_lineno or 0) for target in targets]
      if isinstance(node.value, ast.Call):  # c.model = dict(width=..., ...)
        place = names[0][0]
        names += [
          (f"{place}.{k.arg}", k.value.lineno, k.value.end_lineno or 0)
          for k in node.value.keywords
          if k.arg
        ]
    for name, first, last in names:
      root, _, key = name.partition(".")
      text = remarks.get(last) or remarks.get(first) or _above(remarks, source, first)
      if key and root.isidentifier() and text:
        found.setdefault(key, text)
  return found


def _remarks(source: str) -> dict[int, str]:
  """Comments by line, without the mark."""
  tokens = tokenize.generate_tokens(io.StringIO(source).readline)
  return {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}


def _above(remarks: Mapping[int, str], source: str, line: int) -> str:
  """The comment lines right above a line, as one text; comments behind code do not count."""
  lines = source.splitlines()
  above: list[str] = []
  while (line := line - 1) in remarks and lines[line - 1].lstrip().startswith("#"):
    above.insert(0, remarks[line])
  return " ".join(above)


def presets(module: ModuleType) -> tuple[str, ...]:
  """What may stand behind the colon of `--config=FILE:`, as the page itself says it."""
  if not inspect.signature(module.get_config).parameters:
    return ()
  try:
    module.get_config("?")  # no page has a preset of this name
  except ChoiceError as error:
    return error.known
  except Exception:
    return ()
  return ()


def _default(value: Any) -> str:
  text = repr(value) if not isinstance(value, str) else f'"{value}"'
  return text if len(text) < 60 else f"{text[:56]} ..."


def keys_of(path: pathlib.Path, preset: str | None = None) -> list[str]:
  """Lines on every key of a config page: name, default, meaning.

  Args:
    path: The page.
    preset: What stands behind the colon; None: the page's own default.

  Raises:
    UserError: if the page has no such preset.
  """
  module = config_pages.module_of(path)
  known = presets(module)
  config = module.get_config(*([preset] if preset else []))
  # What defaults have in common is explained where they are; a model's sizes, in its own docstring.
  shared = comments(_shared(config))
  for group in ("model", "discriminator"):
    if group in config:
      # Only the codec has a fit that asks for its sizes without being a training config.
      shared |= _attributes(group, config.get("task", "vae") if group == "model" else group)
  for network in config.get("model", {}):
    if network in _MORE_PAGES:
      shared |= _attributes(f"model.{network}", network)
  meanings = comments(path.read_text(encoding="utf-8")) | shared
  lines = []
  if known:
    chosen = inspect.signature(module.get_config).parameters.values()
    lines.append(f"Presets: --config={path}:NAME, NAME one of {', '.join(known)}")
    lines.append(f"Shown: {preset or next(iter(chosen)).default}")
  lines.append("")
  for key, value in config_keys(config):
    # A key may be set by a function that fills one branch: `c.coordinator` of `distributed`.
    meaning = meaning_of(key, meanings)
    head = f"  --config.{key}={_default(value)}"
    gap = "  " if len(head) < _COLUMN - 1 else f"\n{' ' * _COLUMN}"
    text = textwrap.fill(meaning, _WIDTH - _COLUMN)
    lines.append(f"{head:{_COLUMN}}".rstrip() if not meaning else _beside(head, gap, text))
  return lines


def meaning_of(key: str, meanings: Mapping[str, str]) -> str:
  """Meaning of a key; a group may be filled by a function of its own (`c.b1` of `optimizer`)."""
  return meanings.get(key) or meanings.get(key.rpartition(".")[2], "")


def _attributes(group: str, file: str) -> dict[str, str]:
  """Meanings of a model's sizes from the docstring of its config, {"model.width": text}.

  Read as text: importing a model would import JAX, which takes seconds.

  Args:
    group: Group of the keys in the config.
    file: Stem of the page in models/, or a name of _MORE_PAGES.
  """
  package = pathlib.Path(__file__).resolve().parents[1]
  # A config that several pages read has a page of its own.
  names = [f"models/{file}_config.py", f"models/{file}.py", *_MORE_PAGES.get(file, ())]
  sources = [package / name for name in names]
  trees = [ast.parse(p.read_text(encoding="utf-8")) for p in sources if p.is_file()]
  found: dict[str, str] = {}
  for node in (node for tree in trees for node in ast.walk(tree)):
    if not isinstance(node, ast.ClassDef) or not node.name.endswith("Config"):
      continue
    section = (ast.get_docstring(node) or "").partition("Attributes:\n")[2]
    for names, text in re.findall(
      r"^  (\w[\w, ]*):((?:.*\n?)(?:    .*\n?)*)", section, re.MULTILINE
    ):
      for name in names.split(", "):
        found.setdefault(f"{group}.{name}", " ".join(text.split()))
  return found


def _beside(head: str, gap: str, text: str) -> str:
  first, *rest = text.splitlines()
  start = f"{head:{_COLUMN}}{first}" if gap == "  " else f"{head}{gap}{first}"
  return "\n".join([start, *(" " * _COLUMN + line for line in rest)])


def _shared(config: Any) -> str:
  """Text of the page that training configs have in common, where this is one."""
  from melody_jax import config as defaults

  shared = "train" in config or "distributed" in config
  return inspect.getsource(defaults) if shared else ""


def page(
  program: str,
  about: str,
  config: str,
  flags: Mapping[str, str],
  switches: Mapping[str, str],
) -> str:
  """The whole help page of a command.

  Args:
    program: Name of the command.
    about: Docstring of its module.
    config: What was given as --config=FILE[:PRESET]; empty: the one that the docstring names.
    flags: {name: meaning} of flags besides --config.
    switches: {name: meaning} of flags that take no value.

  Raises:
    UserError: if the config page is missing or lacks the preset.
  """
  given = config or next(iter(re.findall(r"--config=(configs/\w+\.py)\b(?!>)", about)), "")
  lines = [
    about.strip(),
    "",
    "Flags:",
    "  --config=FILE[:PRESET]   config page, and one of its presets",
  ]
  lines += [f"  --{name}=...   {meaning}" for name, meaning in flags.items()]
  lines += [f"  --{name}   {meaning}" for name, meaning in switches.items()]
  lines += ["  --help, --version", ""]
  if not given:
    lines += [
      "The keys depend on the config page: they are shown with --help after its name, as in",
      f"  python -m melody_jax.{program} --config=configs/lm.py:nano --help",
    ]
    return "\n".join(lines)
  name, _, preset = given.partition(":")
  lines.append(f"Keys of {name}, with their defaults; --config.KEY=VALUE sets one:")
  return "\n".join(lines + keys_of(config_pages.find(name), preset or None))
