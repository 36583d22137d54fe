"""No command ends in a traceback, whatever environment it finds; one line where it cannot work."""

import os
import pathlib

import pytest

from tests import bad_environments
from tests.bad_environments import COMMANDS, ENVIRONMENTS

# Where a command needs nothing of what is missing, it works.
NO_JAX = ("data.music_folder", "launch/sweep.py")
NO_PRINT = ("train", "encode", "fit", "sample", "exported loader")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory, request):
  cells = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
  commands = {cell["command"] for cell in cells if "command" in cell}
  folder = tmp_path_factory.mktemp("environments") / "fixed"
  return bad_environments.write_fixed(folder, commands)


def expected(command: str, environment: str) -> tuple[int, ...]:
  """Statuses that are right."""
  if environment == "no GPU":
    return (0,) if command in NO_JAX else (0, 2) if command == "plan" else (2,)
  if environment == "stdout closed":
    results = ("stream to stdout", "plan", "launch/sweep.py")  # have no other place for them
    return (2,) if command in results else (0,)
  if environment == "stdout full":
    return (0,) if command in NO_PRINT else (2,)
  if environment == "Ctrl-C":
    return (0, 130)  # some are done before
  return (0,)


CELLS = [(command, name) for command in COMMANDS for name in ENVIRONMENTS]


QUICK = (("sample", "no GPU"), ("train", "no GPU"), ("data.music_folder", "not UTF-8"))


def _mark_of(cell: tuple[str, str]) -> str:
  """A few that end at once are run by .ci/run; all the rest takes half an hour."""
  return "slow" if cell in QUICK else "long"


@pytest.mark.parametrize(
  ("command", "environment"),
  [pytest.param(*cell, marks=getattr(pytest.mark, _mark_of(cell))) for cell in CELLS],
)
def test_a_command_in_its_environment(command, environment, fixed, tmp_path):
  os.chmod(tmp_path, 0o755)
  ending = bad_environments.in_environment(command, environment, fixed, pathlib.Path(tmp_path))
  assert "Traceback" not in ending.errors, ending.errors
  assert ending.status in expected(command, environment), ending.errors
  said = [line for line in ending.errors.splitlines() if ": error: " in line]
  assert len(said) == (ending.status not in (0,)), ending.errors


@pytest.mark.parametrize("environment", ["stdout closed", "stdout full", "not UTF-8"])
def test_the_quickest_command(environment, tmp_path):
  """The rest is slow; this one shows that the table works at all."""
  ending = bad_environments.in_environment("launch/sweep.py", environment, tmp_path, tmp_path)
  assert ending.status in expected("launch/sweep.py", environment)
  assert "Traceback" not in ending.errors
  assert ("standard output" in ending.line) == (environment != "not UTF-8")
