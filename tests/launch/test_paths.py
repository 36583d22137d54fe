"""Launchers in a checkout whose path has spaces, with paths that begin with ~."""

import shlex
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

TRAIN = ["--config=configs/lm.py:tiny", "--workdir=~/my runs", "--config.data.path=~/a b,c d"]
TPU = {"NAME": "melody", "PROJECT": "p", "ZONE": "us-east5-a", "TYPE": "v6e-16"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
  where = tmp_path_factory.mktemp("a user") / "my checkout"
  shutil.copytree(REPOSITORY / "launch", where / "launch")
  shutil.copytree(REPOSITORY / "configs", where / "configs")
  (where.parent / "bin").mkdir()
  for program in ("sbatch", "gcloud", "xpk", "docker"):
    (where.parent / "bin" / program).symlink_to("/bin/true")
  # No link: the python of a virtual environment finds its packages from where it lies.
  python = where.parent / "py thon"
  python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
  python.chmod(0o755)
  return where


def words_of(checkout, script, *arguments, cwd=None, **environ):
  """The commands of a dry run, from another directory: lists of words."""
  home = checkout.parent
  done = subprocess.run(
    ["bash", str(checkout / "launch" / script), "--dry_run", *arguments],
    cwd=cwd or home, capture_output=True, text=True, check=False,
    env={"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(home), "PYTHON": "~/py thon",
         "PYTHONPATH": str(REPOSITORY), **environ},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return shlex.split(done.stdout)


@pytest.mark.parametrize(
  ("script", "arguments", "environ"),
  [
    ("local.sh", TRAIN, {"DEVICE": "cpu"}),
    ("local.sh", TRAIN, {"PROCESSES": "2"}),
    ("gpu_slurm.sh", TRAIN, {"NODES": "2"}),
    ("tpu_gcloud.sh", ["run", *TRAIN], TPU),
    ("tpu_gcloud.sh", ["run", *TRAIN], {**TPU, "DETACH": "1"}),
    ("tpu_xpk.sh", ["run", *TRAIN], {**TPU, "CLUSTER": "c", "IMAGE": "i"}),
  ],
)
def test_arguments_arrive_as_they_were_written(checkout, script, arguments, environ):
  words = words_of(checkout, script, *arguments, **environ)
  # A remote shell reads the words once or twice more.
  for _ in range(3):
    if set(TRAIN) <= set(words):
      break
    lines = max(words, key=len).splitlines()
    words = [word for line in lines for word in shlex.split(line)]
  assert set(TRAIN) <= set(words)


def test_python_may_lie_in_a_home_with_spaces(checkout):
  python = str(checkout.parent / "py thon")
  assert python in words_of(checkout, "local.sh", *TRAIN, DEVICE="cpu")
  sweep = ["lm_learning_rate", "my sweeps", "--config.data.path=a b"]
  words = words_of(checkout, "sweep.sh", *sweep, DEVICE="cpu")
  assert words.count(python) == words.count("--config.data.path=a b") > 1
  assert any(w.startswith("--workdir=my sweeps/lm_learning_rate/") for w in words)


def test_a_launcher_of_ones_own_may_lie_anywhere(checkout):
  own = checkout.parent / "my launcher.sh"
  own.write_text('#!/bin/bash\nprintf "%s\\n" "own $RUN"\n')
  own.chmod(0o755)
  words = words_of(checkout, "sweep.sh", "lm_learning_rate", "d", LAUNCHER="~/my launcher.sh")
  assert words[:2] == ["own", "lm-learning-rate-0"]


def test_the_image_and_the_archive_are_made_of_this_checkout(checkout):
  build = words_of(checkout, "tpu_xpk.sh", "image", **TPU, IMAGE="i")
  assert f"--file={checkout}/launch/Dockerfile" in build and str(checkout) in build
  assert str(checkout) in words_of(checkout, "tpu_gcloud.sh", "install", **TPU)
