"""From the command line to `main(config)`: flags, help, and errors of one line.

python -m melody_jax.<command> --config=FILE[:argument] [--config.key=value ...]
"""

from collections.abc import Callable, Mapping
import inspect
import itertools
import pathlib
import re
import sys
import textwrap
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from melody_jax.command_line import help_page
from melody_jax.command_line.endings import check_devices, check_text, decoded, one_line
from melody_jax.config import keys_of, seconds_of
from melody_jax.errors import UserError, nearest
from melody_jax.host import cache_folders
from melody_jax.places import config_pages, paths
from melody_jax.provenance import VERSION

_WORKDIR = "Directory of checkpoints and logs."
# What absl says of a value that it cannot read -> what the key takes.
_TAKES = (
  (r"invalid literal for int|'float' object cannot", "a whole number"),
  (r"could not convert string to float", "a number"),
  (r"Non-boolean", "True or False"),
  (r"as a ConfigDict", "no value itself: set one of the keys in it"),
  (r"malformed node|invalid syntax|literal_eval|was never closed", "values with commas, as in 1,2"),
)


def _explain(error: Exception) -> str:
  """One line for what absl or ml_collections raised over the command line."""
  text = str(error)
  if isinstance(error, IndexError):  # of --config.prompt[0]=a
    return f"an option with [...] names a place that its key does not have ({text})"
  if re.search(r"get_config\(\) takes 0 positional", text):
    return "this config file takes no preset: leave out what follows its colon"
  if "whilst parsing config file" in text:
    raised = text.strip().splitlines()[-1]  # what was raised; before it comes the traceback
    name, _, message = raised.partition(": ")
    if name.endswith(("UserError", "ChoiceError")):
      return message
    return f"the config file failed with {raised}"
  value = re.match(r"flag --(config\.[\w.\[\]]+)=(.*?): (.*)", text, re.DOTALL)
  if value:
    takes = next((takes for found, takes in _TAKES if re.search(found, value[3])), value[3])
    return f"{value[1]} is {value[2]!r}; it takes {takes}"
  return re.sub(r"Did you mean: (\w+) \?", r"did you mean '--\1'?", text)


def _flags_of(argv: list[str]) -> list[tuple[str, str]]:
  """(name, value) of the arguments that begin with a dash; the value may be an argument further."""
  found = []
  for argument, following in itertools.zip_longest(argv[1:], argv[2:], fillvalue=""):
    if argument == "--":
      break
    if match := re.match(r"--?([^=]+)(=(.*))?$", argument, re.DOTALL):
      found.append((match[1], match[3] if match[2] else following))
  return found


def check_keys(argv: list[str], config: ml_collections.ConfigDict) -> None:
  """Refuses options that set no key of the config, naming the nearest one.

  Args:
    argv: Command line.
    config: The config as its file has it.
  """
  known = [key for key, _ in keys_of(config, groups=True)]
  for name, _ in _flags_of(argv):
    key = name.removeprefix("config.").partition("[")[0]
    if not name.startswith("config.") or key in known:
      continue
    group, _, leaf = key.rpartition(".")
    beside = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == group]
    # A key of a group may be written without the group: temperature for lm.temperature.
    elsewhere = [k for k in known if k.rpartition(".")[2] == leaf]
    hint = nearest(leaf, beside) or (f": did you mean {elsewhere[0]!r}?" if elsewhere else "")
    hint = hint or nearest(key, known) or ": --help lists the keys"
    where = f"config.{group} has no key" if group else "no config key"
    raise UserError(f"{where} {leaf!r}{hint}")


def _check_lists(page: Mapping[str, Any], given: Mapping[str, Any]) -> None:
  """Refuses lists of the command line whose values are not of the kind that the page has."""
  for key, value in given.items():
    usual = page.get(key)
    if not isinstance(usual, tuple | list) or not usual or value == usual:
      continue
    kinds = {type(part) for part in usual}
    if not value or not all(type(part) in kinds for part in value):
      shown = ",".join(map(str, value))
      like = textwrap.shorten(repr(usual), 150, placeholder=" ...")
      raise UserError(
        f"config.{key} is {textwrap.shorten(shown, 150)!r}; it takes values like {like}"
      )


def _in_seconds(argv: list[str]) -> list[str]:
  """The command line with lengths in minutes, as 1:30, in seconds."""

  def convert(before: str, argument: str) -> str:
    # The value may be an argument of its own: --config.seconds 1:30.
    apart = argument[:1].isdecimal() and re.fullmatch(r"--?config\.[\w.]+", before)
    whole = f"{before}={argument}" if apart else argument
    match = re.fullmatch(r"--?(config\.(?:[\w.]*[._])?seconds)=(.*:.*)", whole)
    if not match:
      return argument
    try:
      return f"{argument.removesuffix(match[2])}{seconds_of(match[2])}"
    except ValueError as e:
      raise UserError(
        f"{match[1]} is {match[2]!r}; it takes seconds, or minutes and seconds as in 1:30"
      ) from e

  return argv[:1] + [convert(*pair) for pair in itertools.pairwise(argv)]


def parse(
  argv: list[str],
  needs_workdir: bool = False,
  strings: Mapping[str, str] | None = None,
  page: str = "",
  switches: Mapping[str, str] | None = None,
) -> tuple[ml_collections.ConfigDict, Any]:
  """Parses a command line to its config, --workdir, and flags of the command's own.

  Args:
    argv: Command line, the program's name first.
    needs_workdir: Whether the command requires --workdir=DIR.
    strings: {name: help} of further flags, which are empty by default.
    page: Config page that is meant where --config is left out; "" for none.
    switches: {name: help} of flags that take no value and are False by default.

  Returns:
    (config, workdir), or with `strings` (config, {name: value}), switches included.

  Raises:
    UserError: for anything wrong with it, naming the nearest valid key.
  """
  check_text(argv[1:])
  argv = config_pages.with_found_page(argv, page)
  values = flags.FlagValues()
  try:
    holder = config_flags.DEFINE_config_file("config", None, "Config file.", values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, _WORKDIR, values)
    for name, help_text in (strings or {}).items():
      flags.DEFINE_string(name, "", help_text, values)
    for name, help_text in (switches or {}).items():
      flags.DEFINE_boolean(name, False, help_text, values)
    named = [value for name, value in _flags_of(argv) if name == "config"]
    as_written = _page_alone(named[-1]) if named else ml_collections.ConfigDict()
    check_keys(argv, as_written)
    rest = values(_in_seconds(argv))
    config = holder.value
    if config is not None:
      _check_lists(dict(keys_of(as_written)), dict(keys_of(config)))
  except (flags.Error, AttributeError, LookupError, OSError, TypeError, ValueError) as e:
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
    given = {name: paths.expand(str(values[name].value)) for name in strings}
    return config, given | {name: values[name].value for name in switches or {}}
  return config, paths.expand(values.workdir) if values.workdir else None


def _page_alone(given: str) -> ml_collections.ConfigDict:
  """The config as its file has it, without what the command line changes."""
  argv = ["", f"--config={given}"]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file("config", None, "Config file.", values, sys_argv=argv)
  try:
    values(argv)
    config = holder.value
    config.to_dict()  # a page that failed to load raises here
  except UserError:
    raise
  except Exception as e:
    if "positional argument" in str(e) or "whilst parsing" in str(e):
      raise UserError(_explain(e)) from e
    page, _, preset = given.partition(":")
    doubt = f": does it have a preset {preset!r}?" if preset else ""
    raise UserError(f"config file {page} failed with {type(e).__name__}: {e}{doubt}") from e
  return config


def run(
  main: Callable[..., None],
  needs_workdir: bool = False,
  strings: Mapping[str, str] | None = None,
  page: str = "",
  switches: Mapping[str, str] | None = None,
) -> None:
  """Entry point of a command: parses sys.argv, calls `main(config[, workdir][, **strings])`.

  --help and --version print and end. A UserError, an interrupt, and trouble of the machine end the
  program with one line on standard error (`command_line.endings`).
  """
  program = pathlib.Path(sys.argv[0]).stem
  with one_line(program):
    sys.argv[1:] = decoded(sys.argv[1:])
    if _told(program, main, needs_workdir, strings or {}, page, switches or {}):
      return
    config, given = parse(sys.argv, needs_workdir, strings, page, switches)
    cache_folders.check()
    if program != "plan":  # which plans for chips that are not here
      check_devices()
    if strings:
      main(config, **given)
    elif needs_workdir:
      main(config, given)
    else:
      main(config)


def _told(
  program: str,
  main: Callable[..., None],
  needs_workdir: bool,
  strings: Mapping[str, str],
  page: str,
  switches: Mapping[str, str],
) -> bool:
  """Prints the help page or the version where the command line asks for it."""
  arguments = sys.argv[1:]
  if "--version" in arguments:
    print(f"melody_jax {VERSION}")
    return True
  if not {"--help", "-h", "-help", "--helpfull"} & set(arguments):
    return False
  config = [page, *(value for name, value in _flags_of(sys.argv) if name == "config")][-1]
  name, colon, preset = config.partition(":")
  if name:
    config = f"{config_pages.find(name)}{colon}{preset}"
  about = inspect.getdoc(inspect.getmodule(main)) or ""
  own = ({"workdir": _WORKDIR} if needs_workdir else {}) | dict(strings)
  print(help_page.page(program, about, config, own, switches))
  return True
