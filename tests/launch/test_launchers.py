"""The launchers: what they would run, what they say when something is missing, and the sweeps."""

import dataclasses
import importlib.util
import os
import re
import shlex
import subprocess
import sys

import pytest

from melody_jax import cli
from melody_jax.config import check_training
from melody_jax.multihost import session
from melody_jax.places import config_pages
from tests.conftest import REPOSITORY
from tests.training.processes import environment

LAUNCH = REPOSITORY / "launch"
SCRIPTS = ["local.sh", "gpu_slurm.sh", "tpu_gcloud.sh", "tpu_xpk.sh", "sweep.sh"]  # launchers
TRAIN = ["--config=configs/lm.py:tiny", "--workdir=my runs/lm", "--config.data.path=D"]
TPU = {"NAME": "melody", "PROJECT": "p", "ZONE": "us-east5-a", "TYPE": "v6e-16"}
XPK = {"PROJECT": "p", "ZONE": "us-east5-a", "CLUSTER": "c", "TYPE": "v6e-16", "IMAGE": "host/p/i"}


def launch(script, *arguments, path=None, **environ):
  """Runs a launcher in an environment that has its settings only."""
  return subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    env={
      "PATH": path or os.environ["PATH"],
      "HOME": "/nowhere",
      "PYTHON": sys.executable,
      **environ,
    },
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )


def commands(script, *arguments, **environ):
  """The printed commands: each a list of words."""
  done = launch(script, "--dry_run", *arguments, **environ)
  assert done.returncode == 0, done.stderr
  found, line = [], ""
  for part in done.stdout.splitlines(keepends=True):
    line += part
    try:
      found.append(shlex.split(line))
    except ValueError:  # a quotation goes on in the next line
      continue
    line = ""
  assert not line
  return found


@pytest.fixture(scope="module")
def bare_path(tmp_path_factory):
  """A PATH that has what the scripts themselves use, and nothing that they launch."""
  where = tmp_path_factory.mktemp("bin")
  for name in ("bash", "basename", "dirname", "sed", "env", "git", "mktemp", "rm", "paste"):
    found = subprocess.run(["which", name], capture_output=True, text=True, check=True)
    (where / name).symlink_to(found.stdout.strip())
  return str(where)


@pytest.mark.parametrize("script", [*SCRIPTS, "common.sh"])
def test_syntax_and_size(script):
  subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)
  text = (LAUNCH / script).read_text()
  assert "\t" not in text and all(len(line) <= 120 for line in text.splitlines())
  if script in SCRIPTS:
    assert len(text.splitlines()) <= 120
    assert os.access(LAUNCH / script, os.X_OK)
    # The shared file sets errexit, nounset and pipefail.
    assert 'source "$(dirname "$0")/common.sh"\nparse "$@"\n' in text
  if script == "common.sh":
    assert "set -euo pipefail" in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_usage_and_defaults(script):
  done = launch(script, "--help")
  assert done.returncode == 0 and done.stderr == ""
  assert f"launch/{script}" in done.stdout and "--dry_run" in done.stdout
  assert "(default" in done.stdout and not done.stdout.startswith("#")


@pytest.mark.parametrize(
  "script, arguments, environ, message",
  [
    ("gpu_slurm.sh", TRAIN, {}, "sbatch is not installed"),
    ("tpu_gcloud.sh", ["create"], TPU, "gcloud is not installed: https://cloud.google.com"),
    ("tpu_xpk.sh", ["cluster"], XPK, "xpk is not installed: pip install xpk"),
    ("tpu_xpk.sh", ["image"], XPK, "docker is not installed"),
    ("local.sh", TRAIN, {"PYTHON": "no/python"}, "no/python is not installed"),
  ],
)
def test_a_missing_program_is_one_line(script, arguments, environ, message, bare_path):
  done = launch(script, *arguments, path=bare_path, **environ)
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.parametrize(
  "script, arguments, environ, message",
  [
    ("local.sh", [], {}, "--config=FILE is missing"),
    ("local.sh", ["--config=configs/nope.py"], {}, "no config file configs/nope.py"),
    ("local.sh", TRAIN, {"DEVICE": "abacus"}, "DEVICE is 'abacus'"),
    ("local.sh", TRAIN, {"PROCESSES": "two"}, "PROCESSES is 'two'"),
    ("gpu_slurm.sh", TRAIN, {"TASKS": "many"}, "TASKS is 'many'"),
    ("tpu_gcloud.sh", ["create"], {}, "NAME is not set: for example NAME=melody"),
    ("tpu_gcloud.sh", ["fly"], TPU, "no verb 'fly'"),
    ("tpu_gcloud.sh", ["create"], {**TPU, "CAPACITY": "free"}, "CAPACITY is 'free'"),
    ("tpu_gcloud.sh", ["data"], TPU, "DATA_DISK or DATA is not set"),
    ("tpu_gcloud.sh", ["run"], TPU, "--config=FILE is missing"),
    ("tpu_xpk.sh", ["run", *TRAIN], {**XPK, "IMAGE": ""}, "IMAGE is not set"),
    ("tpu_xpk.sh", ["run", *TRAIN], {**XPK, "NAME": "My_Run"}, "NAME is 'My_Run'"),
    ("tpu_xpk.sh", ["cluster"], {**XPK, "CAPACITY": "reservation"}, "CAPACITY is 'reservation'"),
    ("sweep.sh", ["no_such_sweep", "d"], {}, "no sweep 'no_such_sweep'"),
    ("sweep.sh", ["lm_learning_rate"], {}, "a sweep and a directory are needed"),
  ],
)
def test_bad_settings_are_one_line(script, arguments, environ, message):
  done = launch(script, "--dry_run", *arguments, **environ)
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1 and message in done.stderr
  assert done.stdout == ""


def test_local():
  (words,) = commands("local.sh", *TRAIN, DEVICE="cpu")
  assert words[0] == "env" and "JAX_PLATFORMS=cpu" in words
  assert words[words.index(sys.executable) :] == [sys.executable, "-m", "melody_jax.train", *TRAIN]
  (words,) = commands("local.sh", *TRAIN, DEVICE="gpu", MEM_FRACTION="0.5", XLA_FLAGS="--a --b")
  assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.5" in words
  assert "XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true --a --b" in words


def test_local_rehearsal_of_several_hosts():
  first, second = commands("local.sh", *TRAIN, PROCESSES="2", DEVICES="4", PORT="1234")
  assert "MELODY_PROCESS_ID=0" in first and "MELODY_PROCESS_ID=1" in second
  for words in (first, second):
    assert {"MELODY_COORDINATOR=localhost:1234", "MELODY_NUM_PROCESSES=2"} <= set(words)
    assert "XLA_FLAGS=--xla_force_host_platform_device_count=4" in words
    assert words[-3:] == TRAIN


def test_local_runs_the_module():
  done = launch("local.sh", "--config=configs/lm.py:tiny", MODULE="this", DEVICE="cpu")
  assert done.returncode == 0 and "Zen of Python" in done.stdout
  done = launch("local.sh", "--config=configs/lm.py:tiny", MODULE="no_such_module", PROCESSES="2")
  assert done.returncode != 0


def test_slurm():
  (words,) = commands("gpu_slurm.sh", *TRAIN, NODES="2", GPUS="4", PARTITION="a", SBATCH_ARGS="--x")
  assert words[0] == "sbatch"
  assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--partition=a", "--x"} <= set(
    words
  )
  assert "--requeue" in words and "--signal=TERM@300" in words
  script = words[words.index("--wrap") + 1]
  subprocess.run(["bash", "-n"], input=script, text=True, check=True)
  assert "scontrol show hostnames" in script and "scontrol requeue $SLURM_JOB_ID" in script
  (step,) = [line for line in script.splitlines() if line.startswith("srun ")]
  step = shlex.split(step.split(" || ")[0])
  assert step[-5:] == ["-m", "melody_jax.train", *TRAIN] and "--kill-on-bad-exit=1" in step
  (words,) = commands("gpu_slurm.sh", *TRAIN, NODES="2", GPUS="4", TASKS="gpu")
  assert "--ntasks-per-node=4" in words
  # One process alone meets nobody.
  (words,) = commands("gpu_slurm.sh", *TRAIN, NODES="1")
  assert "MELODY_COORDINATOR" not in words[-1]


def test_gcloud():
  create, describe = commands("tpu_gcloud.sh", "create", **TPU, CAPACITY="spot", SLICES="2")
  assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "melody"]
  assert {
    "--accelerator-type=v6e-16",
    "--runtime-version=v2-alpha-tpuv6e",
    "--node-count=2",
    "--node-prefix=melody",
    "--spot",
  } <= set(create)
  assert describe[4] == "describe"
  assert "--node-id=melody" in commands("tpu_gcloud.sh", "create", **TPU)[0]
  archive, copy, setup = commands("tpu_gcloud.sh", "install", **TPU)
  assert archive[0] == "git" and "archive" in archive
  assert copy[4] == "scp" and copy[6] == "melody:melody_jax.tar.gz"
  everywhere = {"--node=all", "--worker=all", "--batch-size=all"}
  assert everywhere <= set(copy) and everywhere <= set(setup)
  assert "-c constraints.txt -e '.[train,tpu]'" in setup[-1]
  (run,) = commands("tpu_gcloud.sh", "run", *TRAIN, **TPU)
  assert everywhere <= set(run)
  remote = run[-1].removeprefix("--command=")
  assert shlex.split(remote)[-5:] == ["-m", "melody_jax.train", *TRAIN]
  (run,) = commands("tpu_gcloud.sh", "run", *TRAIN, **TPU, DETACH="1")
  detached = shlex.split(run[-1].removeprefix("--command="))
  assert detached[:3] == ["nohup", "bash", "-c"]
  assert shlex.split(detached[3])[-3:] == TRAIN
  (delete,) = commands("tpu_gcloud.sh", "delete", **TPU)
  assert delete[4:6] == ["delete", "melody"] and "--force" in delete


@pytest.mark.parametrize(
  "kind, runtime",
  [
    ("v5litepod-16", "v2-alpha-tpuv5-lite"),
    ("v5p-32", "v2-alpha-tpuv5"),
    ("v4-32", "tpu-ubuntu2204-base"),
  ],
)
def test_gcloud_software_version(kind, runtime):
  create = commands("tpu_gcloud.sh", "create", **{**TPU, "TYPE": kind})[0]
  assert f"--runtime-version={runtime}" in create


def test_gcloud_data():
  (disk,) = commands("tpu_gcloud.sh", "data", **TPU, DATA_DISK="projects/p/zones/z/disks/d")
  assert "mount -o ro" in disk[-1]
  (copied,) = commands("tpu_gcloud.sh", "data", **TPU, DATA="gs://b/d")
  assert "gcloud storage rsync --recursive gs://b/d data" in copied[-1]


def test_xpk():
  (cluster,) = commands("tpu_xpk.sh", "cluster", **XPK, SLICES="2", CAPACITY="reservation=r")
  assert cluster[:3] == ["xpk", "cluster", "create"]
  assert {"--cluster=c", "--tpu-type=v6e-16", "--num-slices=2", "--reservation=r"} <= set(cluster)
  build, push = commands("tpu_xpk.sh", "image", **XPK)
  assert build[:2] == ["docker", "build"] and f"--file={LAUNCH / 'Dockerfile'}" in build
  assert push == ["docker", "push", "host/p/i"]
  (run,) = commands("tpu_xpk.sh", "run", *TRAIN, **XPK, SLICES="2", STORAGE="a,b", RUN="lm-0")
  assert run[:3] == ["xpk", "workload", "create"]
  assert {
    "--workload=lm-0",
    "--num-slices=2",
    "--docker-image=host/p/i",
    "--restart-on-exit-codes=75",
    "--storage=a",
    "--storage=b",
  } <= set(run)
  (command,) = [w.removeprefix("--command=") for w in run if w.startswith("--command=")]
  assert "exec python -m melody_jax.train" in command and shlex.split(command)[-3:] == TRAIN


def compiler_flags(words):
  (command,) = [w.removeprefix("--command=") for w in words if w.startswith("--command=")]
  words = shlex.split(command)
  (flags,) = [w.split("=", 1)[1] for w in words if w.startswith("LIBTPU_INIT_ARGS=")]
  return flags


def test_tpus_get_the_flags_of_their_compiler():
  (gcloud,) = commands("tpu_gcloud.sh", "run", *TRAIN, **TPU)
  (xpk,) = commands("tpu_xpk.sh", "run", *TRAIN, **XPK)
  flags = compiler_flags(gcloud)
  assert flags == compiler_flags(xpk) and len(flags.split()) >= 5
  assert all(re.fullmatch(r"--xla_\w+=\w+", flag) for flag in flags.split())
  (own,) = commands("tpu_gcloud.sh", "run", *TRAIN, **TPU, LIBTPU_INIT_ARGS="--xla_mine=1")
  assert compiler_flags(own) == "--xla_mine=1"
  (none,) = commands("tpu_gcloud.sh", "run", *TRAIN, **TPU, LIBTPU_INIT_ARGS="")
  assert compiler_flags(none) == ""


def test_the_tpu_compiler_knows_the_flags():
  pytest.importorskip("libtpu", reason="needs the [plan] extra")
  (run,) = commands("tpu_gcloud.sh", "run", *TRAIN, **TPU)
  code = (
    "from melody_jax.planning.topology import open_topology; import jax, jax.numpy as jnp\n"
    "from jax.sharding import SingleDeviceSharding\n"
    "here = SingleDeviceSharding(open_topology('v5e:2x2').devices[0])\n"
    "x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=here)\n"
    "jax.jit(jnp.sin).lower(x).compile()\n"
  )
  env = environment(1) | {"LIBTPU_INIT_ARGS": compiler_flags(run)}
  done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  env["LIBTPU_INIT_ARGS"] += " --xla_no_such_flag=true"
  done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
  assert done.returncode != 0 and "xla_no_such_flag" in done.stderr


def test_exit_status_of_a_restart_is_the_one_that_the_program_uses():

  assert f"--restart-on-exit-codes={session.EXIT_TRY_AGAIN} " in (
    (LAUNCH / "tpu_xpk.sh").read_text().replace("\\\n", "")
  )


def test_dockerfile_copies_what_there_is():
  for line in (LAUNCH / "Dockerfile").read_text().splitlines():
    if line.startswith("COPY "):
      for source in line.split()[1:-1]:
        assert (REPOSITORY / source).exists(), source


def load_sweeps():
  spec = importlib.util.spec_from_file_location("launch_sweep", LAUNCH / "sweep.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


sweeps = load_sweeps()


@pytest.mark.parametrize(
  "name", [f"{name}:{preset}" for name in sweeps.names() for preset in sweeps.presets(name)]
)
def test_every_key_of_a_sweep_is_in_its_config(name):
  sweep = sweeps.load(name)
  sweeps.check(sweep)
  runs = sweeps.expand(sweep, "gs://b/d", ["--config.seed=1"])
  places = {word for run in runs for word in run if word.startswith(sweep.output + "=")}
  assert len(places) == len(runs) > 1
  assert all(run[-1] == "--config.seed=1" for run in runs)
  assert importlib.util.find_spec(sweep.module)


def test_the_sweeps_of_the_paper_and_of_the_sizes_are_there():
  assert {"angle_schedule", "denoisers", "steps", "dpd_size", "lm_learning_rate"} <= set(
    sweeps.names()
  )
  settings = sweeps.load("angle_schedule").runs
  assert {s["sampling.sampler.schedule"] for s in settings} == {"uniform", "linear"}


@pytest.mark.parametrize(
  "runs, message",
  [
    ([{"optimizer.learning_rat": 1e-3}], "learning_rat"),
    ([{"train.steps": "many"}], "does not fit configs/lm.py:nano"),
    ([{"seed": 1}, {"seed": 1}], "two runs are seed=1"),
  ],
)
def test_a_bad_sweep_is_found_before_anything_runs(runs, message):
  sweep = dataclasses.replace(sweeps.load("lm_learning_rate"), runs=runs)
  with pytest.raises(sweeps.SweepError, match=message):
    sweeps.expand(sweep, "d", [])


def test_a_preset_has_a_directory_and_seeds_of_its_own():
  nano, paper = sweeps.load("chunks"), sweeps.load("chunks:paper")
  assert (nano.name, nano.config) == ("chunks", "configs/dpd.py:nano")
  assert (paper.name, paper.config) == ("chunks_paper", "configs/dpd.py:paper")
  # Every setting with one seed before the next: a sweep cut short has all rows, of fewer seeds.
  assert [run["seed"] for run in nano.runs[::4]] == [0, 1, 2] and "seed" not in paper.runs[0]
  assert len({run["model.chunks"] for run in nano.runs[:4]}) == 4
  with pytest.raises(sweeps.SweepError, match="no preset 'large': nano, paper"):
    sweeps.load("chunks:large")


def test_a_sweep_says_only_what_its_kind_does_not(tmp_path, monkeypatch):
  monkeypatch.setattr(sweeps, "SWEEPS", tmp_path)
  (tmp_path / "kinds").mkdir()
  kind = 'CONFIG = "configs/lm.py"\nSEEDS = {"nano": 3}\nMETRICS = {"loss": ("loss",)}\n'
  (tmp_path / "kinds" / "few.py").write_text(kind)
  page = (
    'KIND = "few"\nSEEDS = {"nano": 2}\ndef get_sweep(preset):\n  return [{"train.steps": 5}]\n'
  )
  (tmp_path / "one.py").write_text(page)
  (tmp_path / "other.py").write_text(page.replace("few", "many"))
  assert sweeps.names() == ["one", "other"]
  sweep = sweeps.load("one")
  assert sweep.config == "configs/lm.py:nano" and sweep.metrics == {"loss": ("loss",)}
  assert [run["seed"] for run in sweep.runs] == [0, 1]
  with pytest.raises(sweeps.SweepError, match="other.py is of a kind that there is not: .*many.py"):
    sweeps.load("other")


def test_each_guidance_is_varied_beside_the_default_of_the_other():
  default = sweeps.base_config(sweeps.load("guidance")).sampling.sampler
  pairs = {
    (run["sampling.sampler.lm_guidance_scale"], run["sampling.sampler.guidance_scale"])
    for run in sweeps.load("guidance").runs
  }
  usual = (default.lm_guidance_scale, default.guidance_scale)
  assert usual in pairs
  assert all(lm == usual[0] or dpd == usual[1] for lm, dpd in pairs)


def test_what_all_runs_share_is_in_their_commands_and_not_in_their_names():
  short = sweeps.load("denoisers:short")
  assert short.config == "configs/dpd.py:nano"
  words = sweeps.expand(short, "d", [])[0]
  assert "--config.train.steps=60" in words
  assert "--workdir=d/denoisers_short/denoiser=dpd,seed=0" in words
  broken = dataclasses.replace(short, recipe={"train.step": 60})
  with pytest.raises(sweeps.SweepError, match='"step\\W* does not exist'):
    sweeps.check(broken)


def test_sweep_goes_through_a_launcher():
  local = commands("sweep.sh", "lm_learning_rate", "a dir", "--config.seed=1", DEVICE="cpu")
  assert len(local) == len(sweeps.load("lm_learning_rate").runs)
  workdirs = {w for words in local for w in words if w.startswith("--workdir=")}
  assert len(workdirs) == len(local)
  assert all(w.startswith("--workdir=a dir/lm_learning_rate/learning_rate=") for w in workdirs)
  assert all(words[-1] == "--config.seed=1" for words in local)
  slurm = commands("sweep.sh", "lm_learning_rate", "d", LAUNCHER="launch/gpu_slurm.sh")
  assert [w[1] for w in slurm] == [f"--job-name=lm-learning-rate-{i}" for i in range(len(local))]
  xpk = commands("sweep.sh", "lm_learning_rate", "d", LAUNCHER="launch/tpu_xpk.sh run", **XPK)
  assert "--workload=lm-learning-rate-1" in xpk[1]


def test_sweep_runs_some_at_a_time_and_reports_those_that_failed(tmp_path):
  runner = tmp_path / "runner.sh"
  runner.write_text(
    '#!/bin/bash\necho "$RUN $CUDA_VISIBLE_DEVICES" >> "$LOG"\nsleep 0.3\n[[ $RUN != *-2 ]]\n'
  )
  runner.chmod(0o755)
  log = tmp_path / "log"
  done = launch(
    "sweep.sh",
    "lm_learning_rate",
    str(tmp_path / "d"),
    LAUNCHER=str(runner),
    GPUS="5 7",
    LOG=str(log),
  )
  assert done.returncode == 2 and "these runs failed: lm-learning-rate-2 (status 1)" in done.stderr
  started = dict(line.split() for line in log.read_text().splitlines())
  assert len(started) == 4 and set(started.values()) == {"5", "7"}


def test_sweep_list():
  done = launch("sweep.sh", "list")
  assert done.returncode == 0
  assert [line.split()[0] for line in done.stdout.splitlines()] == sweeps.names()


def test_nano_refuses_two_datasets_of_one_name(tmp_path):
  env = {"AUDIO": "a/music,b/music,c/other", "ROOT": str(tmp_path)}
  done = launch("nano.sh", "--dry_run", "encode", **env)
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert "AUDIO names two datasets 'music'" in done.stderr and "rename" in done.stderr
  assert launch("nano.sh", "--dry_run", "encode", AUDIO="a/music,b/others").returncode == 0


def modules(found):
  """(module, arguments) of printed commands, on pods or here."""
  for words in found:
    inner = [w.removeprefix("--command=") for w in words if w.startswith("--command=")]
    words = shlex.split(inner[0]) if inner else words
    yield words[words.index("-m") + 1].removeprefix("melody_jax."), words[words.index("-m") + 2 :]


PAPER = {"RUNS": "gs://b/paper", "PROJECT": "p", "ZONE": "z", "IMAGE": "host/p/i"}


def test_the_paper_recipe_is_made_of_commands_that_parse():
  found = commands("paper.sh", "all", **PAPER, AUDIO="/data/a,/data/b")
  stages = list(modules(found))
  assert [m for m, _ in stages if m != "fit"] == [
    *("train", "export") * 3, "encode", "encode", *("train", "export") * 2, "evaluate"
  ]  # fmt: skip
  for words, (module, arguments) in zip(found, stages, strict=True):
    config, workdir = cli.parse(
      ["x", *arguments], needs_workdir=module in ("train", "export"), page="evaluate"
    )
    if module != "train":
      continue
    check_training(config)
    assert workdir == f"gs://b/paper/{config.task}"
    page = config_pages.load(config.task, "paper")
    # The table says what the page says, so that neither is believed alone.
    for key in ("batch_size", "steps"):
      assert config.train[key] == page.train[key]
    (chips,) = [w.split("-")[-1] for w in words if w.startswith("--tpu-type=")]
    assert config.train.batch_size % (int(chips) // config.mesh.tensor) == 0
  encoded = [c for m, c in stages if m == "train"][-1]
  assert "--config.data.path=/data/encoded/a,/data/encoded/b" in encoded


def test_the_paper_recipe_refuses_what_cannot_work():
  for arguments, settings, message in (
    (["all"], PAPER, "one at a time"),
    (["train_lm"], {}, "RUNS is not set"),
    (["no_stage"], PAPER, "no stage 'no_stage'"),
    (["train_lm"], PAPER | {"ENCODED": "gs://b/encoded"}, "mount the bucket"),
  ):
    done = launch("paper.sh", *arguments, **settings)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
  assert launch("paper.sh", "list").stdout.count("\n") == 17


PROMPTS = [
  "costs $5",
  "$(shell id) ${HOME} $@ $$",
  "a `date` b",
  'it\'s "loud" # now',
  "two\nlines",
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("by_environment", [False, True])
def test_make_passes_prompts_on_as_they_were_typed(tmp_path, repository, prompt, by_environment):
  python = tmp_path / "bin" / "python"
  python.parent.mkdir()
  python.write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
  python.chmod(0o755)
  (tmp_path / ".sample-ready").touch()
  given = {"PROMPT": prompt, "OUT": f"{tmp_path}/$x y.wav", "SEED": "7"}
  words = [] if by_environment else [f"{k}={v}" for k, v in given.items()]
  words += ["ARGS=--config.negative_prompt='$5 off'"]
  done = subprocess.run(
    ["make", "-s", "sample", f"VENV={tmp_path}", *words],
    cwd=repository, env=os.environ | (given if by_environment else {}),
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  options = dict(word.split("=", 1) for word in done.stdout.split("\0") if "=" in word)
  assert options["--config.prompt"] == prompt and options["--config.out"] == given["OUT"]
  assert options["--config.negative_prompt"] == "$5 off" and options["--config.seed"] == "7"
