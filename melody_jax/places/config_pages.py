"""Config pages: those of the checkout, or those that lie in the installed package.

`--config` names a file. Where there is none of that name, `sample` and `configs/sample.py` mean the
page of this program, so that commands work from any directory.
"""

import importlib.util
import pathlib
import re
from types import ModuleType

import ml_collections

from melody_jax.errors import UserError
from melody_jax.places.paths import CHECKOUT, PACKAGE, expand


def folder() -> pathlib.Path:
  """The folder of config pages: melody_jax/configs of a wheel, else configs/ of the checkout."""
  packaged = PACKAGE / "configs"
  return packaged if packaged.is_dir() else CHECKOUT / "configs"


def names() -> list[str]:
  """Names of all pages: dpd, encode, ..., wav2vec."""
  return sorted(page.stem for page in folder().glob("*.py"))


def find(given: str) -> pathlib.Path:
  """The page that --config names.

  Args:
    given: A file, or a page of this program as `sample`, `sample.py` or `configs/sample.py`.

  Raises:
    UserError: if there is neither.
  """
  path = pathlib.Path(expand(given))
  if path.is_file():
    return path
  name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", given)
  if name and name[1] in names():
    return folder() / f"{name[1]}.py"
  raise UserError(
    f"no config file {given!r} (looked in {pathlib.Path.cwd()}): give its path, or one of"
    f" {', '.join(names())}"
  )


def with_found_page(argv: list[str], default: str = "") -> list[str]:
  """A command line whose --config names a file that exists.

  Args:
    argv: Command line, the program's name first.
    default: Name of the page where --config is left out; "" for none.

  Raises:
    UserError: if there is no such file or page.
  """
  argv = list(argv)
  for i, argument in enumerate(argv[1:], 1):
    if argument in ("--config", "-config") and i + 1 < len(argv):
      argv[i : i + 2] = [f"--config={argv[i + 1]}"]
    given = re.match(r"--?config=([^:]*)(.*)", argv[i], re.DOTALL)
    if given:
      return [*argv[:i], f"--config={find(given[1])}{given[2]}", *argv[i + 1 :]]
  return [*argv[:1], f"--config={find(default)}", *argv[1:]] if default else argv


def module_of(path: pathlib.Path) -> ModuleType:
  """A config page, run as a module of its own.

  Raises:
    UserError: if the file is no Python.
  """
  spec = importlib.util.spec_from_file_location(f"melody_jax_configs_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise UserError(f"{path} is no Python file: name a config page")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def load(name: str, *arguments: str) -> ml_collections.ConfigDict:
  """The config of a page, for pages and commands that need another's.

  Args:
    name: One of `names`.
    *arguments: What stands after the colon of --config, or nothing.

  Raises:
    UserError: if there is no such page, or it does not take the argument.
  """
  path = folder() / f"{name}.py"
  if not path.is_file():
    raise UserError(f"no config page {name!r} in {folder()}: one of {', '.join(names())}")
  return module_of(path).get_config(*arguments)
