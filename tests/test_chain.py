"""The whole recipe at size `tiny`: every stage trains from the previous stage's checkpoint.

Command lines are the real ones (those of launch/nano.sh with PRESET=tiny), parsed as commands
parse them and run in this process, so that JAX is imported once.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from melody_jax import audio_io, bundle, cli, encode, export
from melody_jax.fit import fit as fit_command
from melody_jax.input_pipeline import array_dataset
from melody_jax.sample import sample
from melody_jax.task import TASKS
from melody_jax.training import loop

RATE = 24_000
# Enough for a change of every parameter; nothing is learnt here.
SHORT = (
  "--config.train.steps=3", "--config.train.batch_size=2", "--config.train.log_every=1",
  "--config.train.eval_every=3", "--config.train.eval_batches=1", "--config.train.save_every=3",
  "--config.optimizer.warmup_steps=1",
)  # fmt: skip


def track(i: int, seconds: float = 12.0) -> np.ndarray:
  """A chord with a pulse, different for every `i`: int16 [samples]."""
  t = np.arange(round(seconds * RATE)) / RATE
  chord = sum(np.sin(2 * np.pi * 110 * 2 ** ((i + step) / 12) * t) for step in (0, 4, 7))
  pulse = np.exp(-4 * np.mod(t, 0.3 + 0.05 * i))
  noise = 0.05 * np.random.default_rng(i).normal(size=len(t))
  return np.round(6000 * (chord / 3 * pulse + noise)).astype(np.int16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  root = tmp_path_factory.mktemp("corpus")
  for split, tracks in (("train", range(4)), ("validation", range(4, 6))):
    features = {"audio": array_dataset.Feature(RATE, "int16")}
    writer = array_dataset.ShardWriter(root / split, 0, 1, features)
    for i in tracks:
      record = {
        "id": f"chords/{i}#0",
        "track": f"chords/{i}",
        "captions": [f"chord number {i}", "pulse"],
      }
      writer.write(record, {"audio": track(i)})
    writer.close()
  return root


def test_every_stage_from_the_one_before(corpus, tmp_path, repository, monkeypatch, capsys):
  monkeypatch.chdir(repository)
  runs, models, encoded = tmp_path / "runs", tmp_path / "bundle", tmp_path / "encoded"

  def run(command, *arguments: str, workdir=None) -> None:
    flags = [f"--workdir={workdir}"] if workdir else []
    config, workdir = cli.parse([command.__name__, *arguments, *flags], needs_workdir=bool(workdir))
    command(config, workdir) if workdir else command(config)

  def stage(model: str, data, *arguments: str) -> None:
    config = f"--config=configs/{model}.py:tiny"
    run(loop.train, config, f"--config.data.path={data}", *SHORT, *arguments, workdir=runs / model)
    run(export.export, config, f"--config.export.bundle={models}", *arguments, workdir=runs / model)

  def fit(what: str, *arguments: str) -> None:
    config = f"--config=configs/fit.py:{what}_tiny"
    where = (f"--config.bundle={models}", f"--config.data.path={corpus}")
    run(fit_command, config, *where, *arguments)

  fit("axes")
  born = (f"--config.train.init_from={models / 'vae.safetensors'}",)
  axes = bundle.load(models / "vae.safetensors")[0]["encoder"]["axes"]
  stage("vae", corpus, *born, "--config.loss.train_encoder=False")
  # Latents are what they were before the decoder was trained: rounded to float16, and no more.
  kept = bundle.load(models / "vae.safetensors")[0]["encoder"]["axes"]
  np.testing.assert_allclose(kept, axes, atol=1e-3 * np.abs(axes).max())
  fit("latents")
  stage("wav2vec", corpus)
  fit("semantic")
  stage("mulan", corpus)
  fit("style", "--config.n_levels=12")
  fit("prior")
  run(
    encode.main, "--config=configs/encode.py", f"--config.source={corpus}",
    f"--config.bundle={models}", f"--config.out={encoded}", "--config.shards=1",
  )  # fmt: skip
  stage("lm", encoded)
  stage("dpd", encoded)

  for model in TASKS:
    assert bundle.load(bundle.path_of(models, model))[1]["step"] == 3
  dataset = array_dataset.ArrayDataset(encoded, "train")
  assert dataset.length(0, "latents") == 600 and dataset.length(0, "semantic_tokens") == 300

  out = tmp_path / "x.wav"
  run(
    sample, "--config=configs/sample.py", "--config.prompt=chord number 2",
    f"--config.checkpoint={models}", f"--config.out={out}", "--config.steps=2",
  )  # fmt: skip
  wave = audio_io.load(out)
  assert len(wave) == 10 * RATE
  assert np.isfinite(wave).all() and np.std(wave) > 0
  report = json.loads(out.with_suffix(".json").read_text())
  assert report["nfe"] == 252 and report["checkpoint_sha256"] == bundle.digest(models)
  assert out.with_suffix(".png").stat().st_size > 5000


def test_the_recipe_names_commands_and_configs_that_exist(repository, tmp_path):
  script = [repository / "launch" / "nano.sh", "--dry_run", "all"]
  env = os.environ | {"ROOT": str(tmp_path)}
  printed = subprocess.run(script, capture_output=True, text=True, check=True, env=env).stderr
  commands = [line.split() for line in printed.splitlines() if line.startswith("+ ")]
  assert len(commands) == 20
  for words in commands:
    module = words[words.index("-m") + 1]
    path = repository / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for word in words:
      if word.startswith("--config="):
        assert (repository / word.removeprefix("--config=").split(":")[0]).is_file(), word
  unknown = subprocess.run([script[0], "no_such_stage"], capture_output=True, text=True)
  assert unknown.returncode == 2 and "no stage 'no_such_stage'" in unknown.stderr
