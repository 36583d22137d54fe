"""`melody-jax COMMAND ...`: every command of the program, and every builder, from any directory.

    melody-jax sample --config.prompt="dark ambient techno" --config.out=x.wav
    melody-jax build music_folder --folder=~/Music

What follows the command is what `python -m melody_jax.COMMAND` and `python -m data.BUILDER` take.
"""

import runpy
import sys

from melody_jax.command_line.endings import fail, one_line
from melody_jax.errors import UserError, nearest
from melody_jax.places.paths import CHECKOUT, PACKAGE
from melody_jax.provenance import VERSION

COMMANDS = {
  "sample": "text or a clip of music in, 24 kHz audio out",
  "train": "trains one model",
  "export": "copies a run's parameters into a bundle",
  "fit": "fits quantisers and other constants on a corpus",
  "encode": "writes the tokens and latents that the generator trains on",
  "evaluate": "measures a bundle of trained models",
  "export_sampler": "writes the whole sampler to one file",
  "plan": "says whether a config fits a machine that is not here",
  "build": "builds a dataset",
}
BUILDERS = {
  "music_folder": "your own music",
  "recorded": "recordings from Debian packages",
  "rendered": "rendered grooves and MIDI",
}
# Top-level module that a base install lacks -> extra that brings it.
_EXTRA_OF = {
  "array_record": "train",
  "etils": "train",
  "grain": "train",
  "orbax": "train",
  "tensorboardX": "train",
  "seqio": "data",
  "tensorflow": "data",
  "tensorflow_datasets": "train",
}


def usage() -> str:
  """The help page: what there is, one line each."""
  width = max(map(len, (*COMMANDS, *BUILDERS)))

  def lines(table: dict[str, str]) -> list[str]:
    return [f"  {name:{width}}  {text}" for name, text in table.items()]

  return "\n".join(
    [
      "usage: melody-jax COMMAND [--config=PAGE[:PRESET]] [--config.key=value ...]",
      "       melody-jax build CORPUS [--flag=value ...]",
      "",
      *lines(COMMANDS),
      "",
      "corpora:",
      *lines(BUILDERS),
    ]
  )


def module_of(arguments: list[str]) -> tuple[str, list[str]]:
  """The module that a command line names, and the arguments that are left for it.

  Args:
    arguments: Command line without the program's name.

  Raises:
    UserError: if there is no such command or builder.
  """
  command, rest = _chosen("command", arguments, COMMANDS)
  if command != "build":
    return f"melody_jax.{command}", rest
  builder, rest = _chosen("corpus", rest, BUILDERS)
  # A wheel has the builders inside the package, a checkout beside it.
  if (PACKAGE / "data").is_dir():
    return f"melody_jax.data.{builder}", rest
  if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))
  return f"data.{builder}", rest


def _chosen(what: str, arguments: list[str], known: dict[str, str]) -> tuple[str, list[str]]:
  if not arguments:
    raise UserError(f"no {what}: one of {', '.join(known)}; --help tells what they do")
  name = arguments[0].replace("-", "_")
  if name not in known:
    hint = nearest(name, known) or f": one of {', '.join(known)}"
    raise UserError(f"no {what} {arguments[0]!r}{hint}")
  return name, arguments[1:]


def main() -> None:
  """The console command; sys.argv has the command and its arguments."""
  with one_line("melody-jax"):
    module, rest = _chosen_module()
  if not module:
    return
  # As `python -m` does it: the command reads sys.argv, and builders' processes find the module.
  sys.argv = [module, *rest]
  try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  except ModuleNotFoundError as error:
    extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
    if extra is None:
      raise
    fail("melody-jax", f"{module} needs {error.name}: pip install 'melody_jax[{extra}]'")


def _chosen_module() -> tuple[str, list[str]]:
  """Module and its arguments; ("", []) where the page of help or the version was all."""
  arguments = sys.argv[1:]
  if arguments[:1] in (["--help"], ["-h"], ["help"]) or arguments[:2] == ["build", "--help"]:
    print(usage())
    return "", []
  if arguments[:1] == ["--version"]:
    print(f"melody-jax {VERSION}")
    return "", []
  return module_of(arguments)


if __name__ == "__main__":
  main()
