"""From the command line to `main(config)`: flags, and errors of one line.

python -m melody_jax.<command> --config=FILE[:argument] [--config.key=value ...]
"""

from collections.abc import Callable, Mapping
import pathlib
import re
import sys
from typing import Any, NoReturn

from absl import flags
import ml_collections
from ml_collections import config_flags

from melody_jax.errors import UserError
from melody_jax.places import config_pages, paths

EXIT_BAD_INPUT = 2


def _fail(program: str, message: str) -> NoReturn:
  print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
  raise SystemExit(EXIT_BAD_INPUT)


def _explain(error: Exception) -> str:
  """One line for what absl or ml_collections raised over the command line."""
  text = str(error)
  if re.search(r"get_config\(\) takes 0 positional", text):
    return "this config file takes no preset: leave out what follows its colon"
  if "whilst parsing config file" in text:
    text = text.strip().splitlines()[-1]  # what was raised; before it comes the traceback
  unknown = re.search(r'Did you mean "([^"]+)" instead of "([^"]+)"', text)
  if unknown:
    return f"no config key {unknown[2]!r}: did you mean {unknown[1]!r}?"
  if isinstance(error, AttributeError | KeyError):
    key = text.split("\n")[0].strip("\"'")
    return f"no config key {key!r}: see the config file for its keys"
  return text


def parse(
  argv: list[str],
  needs_workdir: bool = False,
  strings: Mapping[str, str] | None = None,
  page: str = "",
) -> tuple[ml_collections.ConfigDict, Any]:
  """Parses a command line to its config, --workdir, and flags of the command's own.

  Args:
    argv: Command line, the program's name first.
    needs_workdir: Whether the command requires --workdir=DIR.
    strings: {name: help} of further flags, which are empty by default.
    page: Config page that is meant where --config is left out; "" for none.

  Returns:
    (config, workdir), or with `strings` (config, {name: value}).

  Raises:
    UserError: for anything wrong with it, naming the nearest valid key.
  """
  argv = config_pages.with_found_page(argv, page)
  values = flags.FlagValues()
  try:
    holder = config_flags.DEFINE_config_file("config", None, "Config file.", values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "Directory of checkpoints and logs.", values)
    for name, help_text in (strings or {}).items():
      flags.DEFINE_string(name, "", help_text, values)
    rest = values(argv)
    config = holder.value
    if config is not None:
      config.to_dict()  # a config file that failed to load raises here
  except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
    raise UserError(_explain(e)) from e
  if config is None:
    pages = ", ".join(config_pages.names())
    raise UserError(f"--config=FILE is missing, for example --config=configs/lm.py:nano ({pages})")
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}: options are --config.key=value")
  if needs_workdir and not values.workdir:
    raise UserError("--workdir=DIR is missing: where checkpoints and logs go")
  # From here on an unknown key is an error, also one that the program itself misspells.
  config.lock()
  paths.expand_config(config)
  if strings:
    return config, {name: paths.expand(str(values[name].value)) for name in strings}
  return config, paths.expand(values.workdir) if values.workdir else None


def run(
  main: Callable[..., None],
  needs_workdir: bool = False,
  strings: Mapping[str, str] | None = None,
  page: str = "",
) -> None:
  """Entry point of a command: parses sys.argv, calls `main(config[, workdir][, **strings])`.

  A UserError ends the program with one line on standard error and status 2.
  """
  program = pathlib.Path(sys.argv[0]).stem
  try:
    config, given = parse(sys.argv, needs_workdir, strings, page)
    if strings:
      main(config, **given)
    elif needs_workdir:
      main(config, given)
    else:
      main(config)
  except UserError as e:
    _fail(program, str(e))
  except KeyboardInterrupt:
    _fail(program, "interrupted")
