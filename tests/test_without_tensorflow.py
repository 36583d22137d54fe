"""Where TensorFlow is not installed, music is built, encoded, trained on and evaluated."""

import subprocess
import sys

import numpy as np
import soundfile

from tests import tiny_bundle

# One process for all of it: most of its time is imports.
PROGRAM = """
from importlib.machinery import PathFinder
import pathlib, sys
there = PathFinder.find_spec
# As if it were not installed: TFDS and etils look for it before they do without.
PathFinder.find_spec = classmethod(
  lambda cls, name, *a: None if name.partition(".")[0] == "tensorflow" else there(name, *a))
from data.build import build_dataset
from data.music_folder.corpus import FolderCorpus
from melody_jax import cli, encode, evaluate
from melody_jax.training import loop

root = pathlib.Path(sys.argv[1])

def parsed(command, *flags):
  keys = [f"--config.{flag}" for flag in flags[1:]]
  return cli.parse([command, f"--config={flags[0]}", *keys])[0]

build_dataset(FolderCorpus(root / "music"), root / "audio")
encode.main(parsed(
  "encode", "configs/encode.py", f"source={root}/audio", f"out={root}/encoded",
  f"bundle={root}/models", "features=latents"))
config = parsed("train", "configs/vae.py:tiny", f"data.path={root}/audio", "train.steps=2",
  "train.batch_size=2", "train.eval_every=2", "train.eval_batches=1", "window_seconds=0.96")
loop.train(config, root / "run")
evaluate.evaluate(parsed("evaluate", "configs/evaluate.py:codec", f"data={root}/audio",
  f"bundle={root}/models", f"out={root}/findings", "codec.split=train"))
from melody_jax.input_pipeline.dataset import Dataset
assert Dataset(root / "encoded", "train").features.keys() == {"latents"}
assert (root / "findings" / "codec.json").exists() and (root / "run" / "checkpoints" / "2").is_dir()
# Stubs of Google's protocol buffers, such as tensorflow_metadata, are no TensorFlow.
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
"""


def test_building_encoding_training_and_evaluating_do_without(tmp_path, repository):
  tiny_bundle.write(tmp_path / "models", ("vae",))
  (tmp_path / "music").mkdir()
  for i in range(3):
    noise = 0.1 * np.random.default_rng(i).normal(size=80_000)
    soundfile.write(tmp_path / "music" / f"{i}.wav", noise, 8000)
  subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, cwd=repository)
