"""The recipe at size `tiny`, as launch/nano.sh has it: from songs to a bundle that samples.

Its commands are taken from the script itself (`--dry_run`) and run in this process, as they stand,
so that JAX is imported once; the slow test runs the script.
"""

import json
import os
import pathlib
import shlex
import subprocess

import numpy as np
import pytest
import soundfile

from data.build import build_dataset
from data.music_folder.corpus import FolderCorpus
from melody_jax import audio_io, bundle
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.task import TASKS
from tests.conftest import REPOSITORY

RATE = 24_000


def song(i: int, seconds: float) -> np.ndarray:
  """A chord with a pulse, different for every `i`: float [samples]."""
  t = np.arange(round(seconds * RATE)) / RATE
  chord = sum(np.sin(2 * np.pi * 110 * 2 ** ((i + step) / 12) * t) for step in (0, 4, 7))
  pulse = np.exp(-4 * np.mod(t, 0.3 + 0.05 * i))
  return 0.2 * (chord / 3 * pulse + 0.05 * np.random.default_rng(i).normal(size=len(t)))


def write_songs(folder: pathlib.Path, lengths: tuple[float, ...]) -> pathlib.Path:
  """A folder with a song for each length in seconds, and captions for the first two."""
  folder.mkdir(parents=True)
  for i, seconds in enumerate(lengths):
    soundfile.write(folder / f"song {i}.wav", song(i, seconds), RATE)
  rows = [f"song {i}.wav,chord number {i}|a pulse" for i in range(min(2, len(lengths)))]
  (folder / "captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
  return folder


def recipe(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
  """Runs launch/nano.sh with these settings."""
  script = REPOSITORY / "launch" / "nano.sh"
  return subprocess.run(
    [script, *arguments], capture_output=True, text=True, check=False, env=os.environ | environ
  )


def commands_of(printed: str) -> list[list[str]]:
  """The commands that a dry run printed, each a list of words from the module on."""
  lines = [line.removeprefix("+ ") for line in printed.splitlines() if line.startswith("+ ")]
  commands = [shlex.split(line) for line in lines]
  return [words[words.index("-m") + 1 :] for words in commands]


def check_recipe(runs: pathlib.Path, models: pathlib.Path, name: str, axes: np.ndarray) -> None:
  """What the recipe left of six songs: five models, encoded data of that name, an evaluation.

  Args:
    runs: ROOT of the recipe.
    models: BUNDLE.
    name: Name of the data set.
    axes: Encoder of the VAE before its decoder was trained.
  """
  # Latents are what they were before the decoder was trained: rounded to float16, and no more.
  kept = bundle.load(models / "vae.safetensors")[0]["encoder"]["axes"]
  np.testing.assert_allclose(kept, axes, atol=1e-3 * np.abs(axes).max())
  assert all(bundle.load(bundle.path_of(models, model))[1]["step"] > 0 for model in TASKS)
  dataset = Dataset(runs / "encoded" / name, "train")
  seconds = dataset.record(0)["seconds"]
  assert dataset.length(0, "latents") == pytest.approx(50 * seconds, abs=2)
  assert dataset.length(0, "semantic_tokens") == pytest.approx(25 * seconds, abs=1)
  codec = json.loads((runs / "evaluation" / "codec.json").read_text())
  assert codec["split"] == "test" and codec["overall"]["tracks"] == 1
  mulan = (runs / "evaluation" / "mulan.md").read_text()
  assert f"{name} has 1 clips: its k is 1, not 2" in mulan
  assert "no other track's tokens" in (runs / "evaluation" / "dpd.md").read_text()


def check_sample(out: pathlib.Path, models: pathlib.Path, steps: int) -> None:
  """Ten seconds of sound by these models, with picture and report."""
  wave = audio_io.load(out)
  assert len(wave) == 10 * RATE
  assert np.isfinite(wave).all() and np.std(wave) > 0
  report = json.loads(out.with_suffix(".json").read_text())
  assert report["nfe"] == 250 + steps and report["checkpoint_sha256"] == bundle.digest(models)
  assert out.with_suffix(".png").stat().st_size > 5000


@pytest.mark.twin  # of tests/test_documented_commands.py, from songs to music
def test_the_recipe_on_six_short_songs_ends_with_a_bundle_that_samples(
  tmp_path, run_module, repository, monkeypatch
):
  monkeypatch.chdir(repository)
  songs = write_songs(tmp_path / "my songs", (12, 11, 10.5, 11, 10.5, 12))
  corpus, runs, models = tmp_path / "my data", tmp_path / "runs", tmp_path / "bundle"
  build_dataset(FolderCorpus(songs), corpus)
  settings = {"PRESET": "tiny", "AUDIO": str(corpus), "ROOT": str(runs), "BUNDLE": str(models)}
  printed = recipe("--dry_run", "all", **settings)
  assert printed.returncode == 0, printed.stderr
  axes = np.zeros(0)
  for module, *arguments in commands_of(printed.stderr):
    run_module(module, *arguments)
    if "--config=configs/fit.py:axes_tiny" in arguments:
      axes = bundle.load(models / "vae.safetensors")[0]["encoder"]["axes"]

  check_recipe(runs, models, "my data", axes)
  out = tmp_path / "x.wav"
  run_module(
    "melody_jax.sample", "--config=configs/sample.py", "--config.prompt=chord number 2",
    f"--config.checkpoint={models}", f"--config.out={out}", "--config.steps=2",
  )  # fmt: skip
  check_sample(out, models, steps=2)


def test_the_recipe_names_commands_and_configs_that_exist(repository, tmp_path):
  done = recipe("--dry_run", "all", ROOT=str(tmp_path))
  assert done.returncode == 0, done.stderr
  commands = commands_of(done.stderr)
  assert len(commands) == 20
  for module, *arguments in commands:
    path = repository / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for word in arguments:
      if word.startswith("--config="):
        assert (repository / word.removeprefix("--config=").split(":")[0]).is_file(), word


def test_paths_with_spaces_tildes_and_quoted_arguments(tmp_path):
  done = recipe(
    "--dry_run", "encode", HOME="/my home", AUDIO="~/one song,/two songs", ROOT="~/my runs",
    BUNDLE=str(tmp_path / "a b"), ENCODE_ARGS="--config.shards=2 '--config.splits=train, test'",
  )  # fmt: skip
  first, second = commands_of(done.stderr)
  assert "--config.source=/my home/one song" in first and "--config.source=/two songs" in second
  for words in (first, second):
    assert words[-2:] == ["--config.shards=2", "--config.splits=train, test"]
    assert f"--config.bundle={tmp_path}/a b" in words
  assert "--config.out=/my home/my runs/encoded/two songs" in second


@pytest.mark.parametrize(
  ("arguments", "environ", "message"),
  [
    (["no_such_stage"], {}, "no stage 'no_such_stage'"),
    (["all"], {"AUDIO": "/no/such folder"}, "AUDIO: /no/such folder is no dataset"),
    (["--dry_run", "encode"], {"AUDIO": "a", "ENCODE_ARGS": "'b"}, "a quote without its pair"),
  ],
)
def test_bad_settings_of_the_recipe_are_one_line(arguments, environ, message, tmp_path):
  done = recipe(*arguments, ROOT=str(tmp_path / "runs"), **environ)
  assert done.returncode == 2 and message in done.stderr
  assert len([line for line in done.stderr.splitlines() if not line.startswith("==")]) == 1
