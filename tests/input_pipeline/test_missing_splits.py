"""A dataset without a split to evaluate on: trained, fitted and encoded all the same, and said."""

import numpy as np
import pytest

from melody_jax import cli, encode
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset, has_split
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.input_pipeline.source import make_source
from melody_jax.task import WindowFeature


class Audio:
  """Asks for audio only."""

  def input_features(self):
    return {"audio": WindowFeature((8000,), "float32")}

  def tokenizer(self):
    return None


def write(root, *splits):
  for i, split in enumerate(splits):
    writer = ShardWriter(root, split, 0, 1, {"audio": Feature(8000, "int16")})
    writer.write({"id": f"{root.name}/{split}", "captions": ["x"]}, {"audio": np.full(16_000, i)})
    writer.close()
  return str(root)


def config_of(path, **data):
  flags = [f"--config.data.{key}={value}" for key, value in {"path": path, **data}.items()]
  page = ["x", "--config=vae:tiny", "--config.window_seconds=1.0", "--config.train.batch_size=2"]
  config, _ = cli.parse([*page, *flags])
  return config


def test_none_has_it_the_training_split_stands_in(tmp_path, capsys):
  source = make_source(config_of(write(tmp_path / "a", "train")), Audio(), "validation", False)
  assert source.windows == 2
  assert "has no split 'validation'" in capsys.readouterr().err


def test_some_have_it_the_others_are_left_out(tmp_path, capsys):
  one, two = write(tmp_path / "a", "train"), write(tmp_path / "b", "train", "validation")
  config = config_of(f"{one},{two}", weights="0.5,0.5")
  source = make_source(config, Audio(), "validation", False)
  assert source.windows == 2 and next(source)["audio"].max() > 0
  assert f"only {two} has a split 'validation'" in capsys.readouterr().err
  assert make_source(config, Audio(), "train").windows > 2


def test_a_misspelt_split_and_a_missing_training_split_are_errors(tmp_path):
  with pytest.raises(UserError, match="validaton"):
    make_source(config_of(write(tmp_path / "a", "train")), Audio(), "validaton", False)
  with pytest.raises(UserError, match="train"):
    make_source(config_of(write(tmp_path / "b", "validation")), Audio(), "train")
  with pytest.raises(UserError, match="2 numbers for 1 datasets"):
    make_source(config_of(str(tmp_path / "a"), weights="1,2"), Audio(), "validation", False)


def test_encode_takes_the_splits_that_there_are(tmp_path, capsys):
  source, out = write(tmp_path / "a", "train"), tmp_path / "out"
  flags = [f"--config.source={source}", f"--config.out={out}", "--config.features=audio"]
  config, _ = cli.parse(["x", "--config=encode", *flags])
  encode.main(config)
  assert len(Dataset(out, "train")) == 1 and not has_split(out, "validation")
  assert "has no split 'validation': it is left out" in capsys.readouterr().err
  with config.unlocked():
    config.splits = "test"
  with pytest.raises(UserError, match="has no split test"):
    encode.main(config)
