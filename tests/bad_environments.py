"""Every command in environments that are in its way: what it prints, and its status.

    python -m tests.bad_environments [COMMAND ...]

prints a table in Markdown. `tests/test_bad_environments.py` judges the same runs.
"""

from collections.abc import Callable, Collection, Mapping
import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

from melody_jax.input_pipeline.shards import Feature, ShardWriter
from tests import tiny_bundle
from tests.training.datasets import write_encoded

ROOT = pathlib.Path(__file__).resolve().parents[1]
SAMPLE = (
  "-m melody_jax.sample --config={root}/configs/sample.py --config.checkpoint={fixed}/bundle"
  " --config.seconds=1 --config.steps=2"
)
# Command -> its arguments. {fixed} holds what is read, {new} is an empty directory.
COMMANDS = {
  "train": "-m melody_jax.train --config={root}/configs/dpd.py:tiny --workdir={new}/run"
  " --config.data.path={fixed}/encoded --config.train.steps=1 --config.train.eval_every=0",
  "export": "-m melody_jax.export --config={root}/configs/dpd.py:tiny --workdir={fixed}/run"
  " --config.export.bundle={new}",
  "encode": "-m melody_jax.encode --config={root}/configs/encode.py --config.source={fixed}/data"
  " --config.out={new}/encoded --config.features=audio --config.splits=train",
  "fit": "-m melody_jax.fit --config={root}/configs/fit.py:latents_tiny"
  " --config.bundle={new}/bundle --config.data.path={fixed}/data",
  "evaluate": "-m melody_jax.evaluate --config={root}/configs/evaluate.py:tokens"
  " --config.bundle={fixed}/bundle --config.data={fixed}/data --config.out={new}",
  "sample": SAMPLE + " --config.prompt=café --config.out={new}/x.wav",
  "stream to stdout": SAMPLE + " --config.prompt=café --config.mode=stream --config.out=-",
  "export_sampler": "-m melody_jax.export_sampler --config={root}/configs/sample.py"
  " --config.checkpoint={fixed}/bundle --config.prompt=café --out={new}/x.sampler --platforms=cpu",
  "exported loader": "{fixed}/loader.py {fixed}/x.sampler --seconds=1 --out={new}/x.wav",
  "plan": "-m melody_jax.plan --config={root}/configs/dpd.py:tiny --topology=cpu:1",
  "data.music_folder": "-m data.music_folder --folder={fixed}/music --data_dir={new}",
  "launch/sweep.py": "{root}/launch/sweep.py lm_learning_rate {new}",
}


@dataclasses.dataclass(frozen=True)
class Environment:
  """What is in the way.

  Attributes:
    changes: Variables that are set; None: that are missing.
    prepare: Run in the new process, before the command.
    interrupted: Whether Ctrl-C is pressed after some seconds.
  """

  changes: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
  prepare: Callable[[], object] | None = None
  interrupted: bool = False


def _close_stdout() -> None:
  os.close(1)


def _fill_stdout() -> None:
  full = os.open("/dev/full", os.O_WRONLY)
  os.dup2(full, 1)


ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
ENVIRONMENTS = {
  "HOME unwritable": Environment({"HOME": "/proc", "XDG_CACHE_HOME": None}),
  "HOME unset": Environment({"HOME": None, "XDG_CACHE_HOME": None}),
  "TMPDIR unwritable": Environment({"TMPDIR": "/proc"}),
  "TMPDIR full": Environment({"TMPDIR": "{full}"}),
  "stdout closed": Environment(prepare=_close_stdout),
  "stdout full": Environment(prepare=_fill_stdout),
  "no GPU": Environment({"JAX_PLATFORMS": "cuda"}),
  "not UTF-8": Environment({**ASCII, "PYTHONCOERCECLOCALE": "0"}),
  "Ctrl-C": Environment(interrupted=True),
}


@dataclasses.dataclass(frozen=True)
class Ending:
  """How a run ended.

  Attributes:
    status: Its exit status; negative: the signal that killed it.
    errors: What it printed on standard error.
  """

  status: int
  errors: str

  @property
  def line(self) -> str:
    """The line that says what was wrong; else the last one."""
    lines = [line for line in self.errors.replace("\r", "\n").splitlines() if line.strip()]
    said = [line for line in lines if ": error: " in line]
    return (said or lines or [""])[-1].strip()


def write_fixed(folder: pathlib.Path, commands: Collection[str] = tuple(COMMANDS)) -> pathlib.Path:
  """What these commands read: a bundle, data sets, a run, an exported sampler, some music."""
  (folder / "bundle").mkdir(parents=True)
  (folder / "music").mkdir()
  tiny_bundle.write(folder / "bundle")
  rng = np.random.default_rng(0)
  for name in "abc":
    soundfile.write(
      folder / "music" / f"{name}.wav", 0.1 * rng.standard_normal(12 * 24_000), 24_000
    )
  for split in ("train", "validation"):
    writer = ShardWriter(folder / "data", split, 0, 1, {"audio": Feature(24_000, "int16")})
    for name in "abcd":
      audio = (3000 * rng.standard_normal(11 * 24_000)).astype(np.int16)
      writer.write({"id": name, "captions": ["a tone"]}, {"audio": audio})
    writer.close()
  write_encoded(folder / "encoded")
  usual = Environment()
  # Command -> the one whose result it reads.
  for reader, maker in (("export", "train"), ("exported loader", "export_sampler")):
    if reader in commands:
      done = start(COMMANDS[maker].replace("{new}", "{fixed}"), usual, folder, folder)
      assert done.status == 0, done.errors
  shutil.copy(ROOT / "melody_jax" / "generation" / "exported" / "loader.py", folder)
  return folder


def start(
  command: str, environment: Environment, fixed: pathlib.Path, new: pathlib.Path, full: str = ""
) -> Ending:
  """Runs a command in an environment, from a directory that is not the checkout."""
  places = {"root": ROOT, "fixed": fixed, "new": new}
  variables = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  for name, value in environment.changes.items():
    variables.pop(name, None)
    if value is not None:
      variables[name] = value.format(full=full)

  def prepare() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this runs behind "&"
    if environment.prepare is not None:
      environment.prepare()

  process = subprocess.Popen(
    [sys.executable, *(part.format(**places) for part in command.split(" "))],
    cwd=new,
    env=variables,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    preexec_fn=prepare,
    start_new_session=True,
  )
  if environment.interrupted:
    time.sleep(1.2)
    with contextlib.suppress(ProcessLookupError):  # it was done before
      os.killpg(process.pid, signal.SIGINT)
      time.sleep(0.2)
      os.killpg(process.pid, signal.SIGINT)  # people press it twice
  errors = process.communicate(timeout=300)[1].decode(errors="replace")
  return Ending(process.returncode, errors)


def in_environment(command: str, name: str, fixed: pathlib.Path, scratch: pathlib.Path) -> Ending:
  """One cell of the table.

  Args:
    command: Key of COMMANDS.
    name: Key of ENVIRONMENTS.
    fixed: What `write_fixed` wrote.
    scratch: Directory for what the command writes.
  """
  new = pathlib.Path(tempfile.mkdtemp(dir=scratch))
  new.chmod(0o777)
  if command == "fit":
    shutil.copytree(fixed / "bundle", new / "bundle")
    os.system(f"chmod -R a+rwX {new}")
  full = str(new / "full")
  mounted = False
  if name == "TMPDIR full":
    os.mkdir(full)
    # A disk of one page; without the right to mount one, a directory that is read-only.
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", full]
    mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
    if mounted:
      (pathlib.Path(full) / "filler").write_bytes(bytes(4096))
    else:
      os.chmod(full, 0o555)
  try:
    return start(COMMANDS[command], ENVIRONMENTS[name], fixed, new, full)
  finally:
    if mounted:
      subprocess.run(["umount", full], check=True)


def table(commands: list[str]) -> None:
  """Prints the table, a row a command."""
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    fixed = write_fixed(pathlib.Path(folder) / "fixed", commands)
    print("| command |", " | ".join(ENVIRONMENTS), "|", flush=True)
    print("| --- |", " | ".join("---" for _ in ENVIRONMENTS), "|", flush=True)
    for command in commands:
      cells = []
      for name in ENVIRONMENTS:
        ending = in_environment(command, name, fixed, pathlib.Path(folder))
        said = ending.line if ending.status else "works"
        if "Traceback" in ending.errors:
          said = f"TRACEBACK {said}"
        said = said.replace(folder, "...").replace("|", "\\|")[:160]
        cells.append(f"{ending.status}: {said}")
        print(command, "/", name, cells[-1], file=sys.stderr, flush=True)
      print(f"| {command} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
  table(sys.argv[1:] or list(COMMANDS))
