"""What was made from an older state is made anew or refused, never used without a word."""

import json
import shutil

import numpy as np
import pytest

from data.build import build_dataset
from data.music_folder.corpus import FolderCorpus
from melody_jax import bundle, cli, encode, export
from melody_jax.errors import UserError
from melody_jax.evaluation.features import Encoders, encoded_windows
from melody_jax.input_pipeline import shards
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.input_pipeline.source import make_source
from melody_jax.task import make_task
from melody_jax.training import loop
from tests import tiny_bundle
from tests.configs import load_config

RATE = 24_000


def music(folder, *names):
  """Files of noise, 10 s each."""
  import soundfile

  folder.mkdir(exist_ok=True)
  for i, name in enumerate(names):
    noise = 0.1 * np.random.default_rng(i).normal(size=80_000)
    soundfile.write(folder / name, noise, 8000)
  return folder


def tracks_of(root):
  """{split: tracks} of a dataset, read as readers do."""
  return {
    split: {Dataset(root, split).record(i)["track"] for i in range(len(shards_records))}
    for split in shards.shards_of(root)
    for shards_records in [Dataset(root, split)]
  }


def files_of(ledger):
  return {row["track"].split("/", 1)[1]: row["split"] for row in ledger.manifest}


# What changes between two builds of one folder.
def delete(folder):
  (folder / "b.wav").unlink()


def move_to_test(folder):
  (folder / "captions.csv").write_text("file,split\na.wav,test\nb.wav,test\n")


def add(folder):
  music(folder, "e.wav")


@pytest.mark.parametrize(("change", "jobs"), [(delete, 3), (move_to_test, 1), (add, 1)])
def test_a_new_build_takes_the_place_of_the_old(tmp_path, change, jobs):
  folder, root = music(tmp_path / "music", "a.wav", "b.wav", "c.wav", "d.wav"), tmp_path / "set"
  build_dataset(FolderCorpus(folder), root, jobs=4 - jobs)
  (root / "notes.txt").write_text("mine")
  change(folder)
  ledger = build_dataset(FolderCorpus(folder), root, jobs=jobs)
  found = {
    name.split("/", 1)[1]: split for split, names in tracks_of(root).items() for name in names
  }
  assert found == files_of(ledger) and ("b.wav" in found) == (change is not delete)
  assert json.loads((root / "report.json").read_text()) == ledger.report()
  assert (root / "notes.txt").read_text() == "mine"
  assert {p.name for p in root.iterdir()} == {
    "1.0.0", "notes.txt", "manifest.jsonl", "report.json"
  }  # fmt: skip


def test_a_build_that_fails_leaves_the_old_one(tmp_path):
  folder, root = music(tmp_path / "music", "a.wav"), tmp_path / "set"
  build_dataset(FolderCorpus(folder), root)
  before = tracks_of(root)
  (folder / "a.wav").write_bytes(b"no music")
  with pytest.raises(UserError, match="none of 1 files could be used"):
    build_dataset(FolderCorpus(folder), root)
  assert tracks_of(root) == before


def test_two_folders_do_not_share_a_dataset(tmp_path):
  root = tmp_path / "set"
  build_dataset(FolderCorpus(music(tmp_path / "one", "a.wav")), root)
  with pytest.raises(UserError, match="holds the dataset of .*one: give this one another --name"):
    build_dataset(FolderCorpus(music(tmp_path / "two", "b.wav")), root)
  with pytest.raises(UserError, match="lies in the directory of the dataset"):
    build_dataset(FolderCorpus(music(tmp_path / "here", "c.wav")), tmp_path / "here")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "report.json").write_text('{"tracks": "mine"}')
  with pytest.raises(UserError, match="report.json is there already and was not written by"):
    build_dataset(FolderCorpus(tmp_path / "two"), tmp_path / "other")


def write_audio(root, records, seed=0, splits=("train",), shards=1, models=None, caption="noise"):
  """A dataset of 2 s records, as if some models had made it."""
  rng = np.random.default_rng(seed)
  made_from = {"models": models} if models else None
  for split in splits:
    for shard in range(shards):
      features = {"audio": Feature(RATE, "int16")}
      writer = ShardWriter(root, split, shard, shards, features, made_from)
      for i in range(shard, records, shards):
        sound = rng.integers(-3000, 3000, 2 * RATE).astype(np.int16)
        writer.write({"id": f"r{i}", "captions": [caption]}, {"audio": sound})
      writer.close()
  return root


@pytest.fixture
def models(tmp_path):
  """A bundle of the three models that encode, to be changed."""
  return tiny_bundle.write(tmp_path / "models", ("vae", "mulan", "wav2vec"))


def encode_with(source, out, models="", *arguments):
  config, _ = cli.parse(
    ["encode", "--config=configs/encode.py", f"--config.source={source}", f"--config.out={out}",
     f"--config.bundle={models}", *arguments]
  )  # fmt: skip
  encode.main(config)


def stamps(out):
  return {p: p.stat().st_mtime_ns for s in shards.shards_of(out).values() for p in s}


def refit(models):
  rng = np.random.default_rng(9)
  path = models / "wav2vec.safetensors"
  shape = bundle.load(path)[0]["kmeans"]["centroids"].shape
  bundle.update(path, {"kmeans": {"centroids": rng.normal(size=shape).astype(np.float32)}}, {})


def test_encode_redoes_what_is_stale_and_nothing_else(tmp_path, repository, monkeypatch, models):
  monkeypatch.chdir(repository)
  source = write_audio(tmp_path / "audio", 2, splits=("train", "validation"))
  out, tokens = tmp_path / "out", "--config.features=semantic_tokens"
  both = f"{source}", out, models, tokens, "--config.shards=2"
  encode_with(*both)
  first, before = stamps(out), Dataset(out, "train").read(0, "semantic_tokens")
  encode_with(*both)
  assert stamps(out) == first  # nothing changed, nothing done
  refit(models)
  with pytest.raises(UserError, match="validation of .* was encoded from another state .* name"):
    encode_with(*both, "--config.splits=train")
  encode_with(*both)
  assert not set(stamps(out).values()) & set(first.values())
  assert (Dataset(out, "train").read(0, "semantic_tokens") != before).any()
  # Another caption in the source is another source; so is another sound.
  write_audio(source, 2, splits=("train", "validation"), caption="birds")
  encode_with(*both)
  assert Dataset(out, "train").record(0)["captions"] == ["birds"]
  # Fewer shards, other features: no rest of the old ones stays.
  encode_with(source, out, models, "--config.features=latents", "--config.shards=1")
  assert list(Dataset(out, "train").features) == ["latents"]
  assert [p.name for p in (out / "1.0.0").glob("*-train*-of-*")] == [
    "music-train.array_record-00000-of-00001"
  ]


def test_what_encoding_does_not_read_makes_nothing_stale(models):
  from melody_jax.encoders.codec import Codec
  from melody_jax.encoders.style import StyleEncoder

  codec, style = Codec.load(models).digest, StyleEncoder.load(models, text=False).digest
  prior = {"kernel": np.eye(8, dtype=np.float32), "offset": np.zeros(8, np.float32)}
  bundle.update(models / "mulan.safetensors", {"prior": prior}, {"prior_report": {}})
  assert StyleEncoder.load(models, text=False).digest == style
  params, _ = bundle.load(models / "vae.safetensors")
  some = next(iter(bundle.flatten({"decoder": params["decoder"]}).items()))
  bundle.update(models / "vae.safetensors", bundle.unflatten({some[0]: some[1] + 1}), {})
  assert Codec.load(models).digest == codec
  center = params["latent_scale"]["center_D"] + 1
  bundle.update(models / "vae.safetensors", {"latent_scale": {"center_D": center}}, {})
  assert Codec.load(models).digest != codec


def test_encode_does_not_take_the_place_of_another_dataset(tmp_path, repository, monkeypatch):
  monkeypatch.chdir(repository)
  audio, out = "--config.features=audio", tmp_path / "out"
  one = write_audio(tmp_path / "a" / "music", 1, splits=("train", "validation"))
  two = write_audio(tmp_path / "b" / "music", 1, seed=1, splits=("train", "validation"))
  encode_with(one, out, "", audio)
  before = stamps(out)
  with pytest.raises(UserError, match="encoded from another dataset, .*/a/music: give another"):
    encode_with(two, out, "", audio)
  assert stamps(out) == before
  # The same music at another place is no other dataset.
  shutil.move(one, tmp_path / "moved")
  encode_with(tmp_path / "moved", out, "", audio)
  assert stamps(out) == before


def old_and_new(root):
  write_audio(root, 4, shards=2, models={"audio": "one"})
  kept = {p: p.read_bytes() for p in (root / "1.0.0").rglob("*-00001-of-00002*")}
  assert len(kept) == 3  # records, note, lengths
  write_audio(root, 4, shards=2, models={"audio": "two"})
  for path, content in kept.items():
    path.write_bytes(content)


def other_jobs(root):
  write_audio(root, 4, shards=3)
  write_audio(root, 4, shards=1)


def other_split(root):
  write_audio(root, 1, splits=("train", "validation"), models={"audio": "one"})
  write_audio(root, 1, splits=("train",), models={"audio": "two"})


def unmarked(root):
  write_audio(root, 1, splits=("train", "validation"))
  write_audio(root, 1, splits=("train",), models={"audio": "two"})


@pytest.mark.parametrize("mix", [old_and_new, other_jobs, other_split, unmarked])
def test_readers_refuse_a_mixture(tmp_path, mix):
  mix(tmp_path)
  with pytest.raises(UserError, match="mixes what was made at different times"):
    Dataset(tmp_path, "train")


def training(tmp_path, *paths):
  config = load_config("vae", "tiny")
  config.data.path = ",".join(map(str, paths))
  config.data.eval_split = "train"
  config.train.update(steps=1, batch_size=2, eval_every=0, save_every=1)
  config.window_seconds = 0.96
  return config


def test_training_refuses_tokens_of_different_models(tmp_path):
  one = write_audio(tmp_path / "one", 1, models={"audio": "one"})
  two = write_audio(tmp_path / "two", 1, models={"audio": "two"})
  config = training(tmp_path, one, two)
  with pytest.raises(UserError, match="hold audio of different models: encode all of them"):
    make_source(config, make_task(config), "train")


def test_a_run_does_not_go_on_with_tokens_of_other_models(tmp_path):
  root = write_audio(tmp_path / "data", 1, models={"audio": "one"})
  config = training(tmp_path, root)
  loop.train(config, tmp_path / "run")
  config.train.steps = 2
  write_audio(tmp_path / "data", 1, models={"audio": "two"})
  with pytest.raises(UserError, match="of another model than when the run .* began"):
    loop.train(config, tmp_path / "run")


def test_export_refuses_the_run_of_another_model(tmp_path):
  config = training(tmp_path, write_audio(tmp_path / "data", 1))
  loop.train(config, tmp_path / "run")
  out = tmp_path / "out"

  def exported(model, **sizes):
    other = load_config(model, "tiny")
    other.export.bundle = str(out)
    other.model.update(**sizes)
    export.export(other, str(tmp_path / "run"))

  with pytest.raises(UserError, match="is a run of 'vae', --config names 'wav2vec': give"):
    exported("wav2vec")
  with pytest.raises(UserError, match="config.model.latent_dim is 7, the run in .* has 8"):
    exported("vae", latent_dim=7)
  # A run whose record is gone is told by its arrays.
  (tmp_path / "run" / "config.json").unlink()
  for model, sizes in (("wav2vec", {}), ("vae", {"latent_dim": 7})):
    with pytest.raises(UserError, match="is of another model or size than --config"):
      exported(model, **sizes)
  assert not out.exists()
  exported("vae", dtype="bfloat16")
  assert (out / "vae.safetensors").is_file()


def test_evaluation_refuses_features_of_another_bundle(tmp_path, repository, monkeypatch, models):
  monkeypatch.chdir(repository)
  source = write_audio(tmp_path / "audio", 1, splits=("train", "validation"))
  tokens = "--config.features=semantic_tokens"
  encode_with(source, tmp_path / "out", models, tokens)
  dataset = Dataset(tmp_path / "out", "validation")
  assert encoded_windows(dataset, Encoders(str(models), 1), 2.0, ("semantic_tokens",))
  refit(models)
  with pytest.raises(UserError, match="made by another model than that of .*: encode it again"):
    encoded_windows(dataset, Encoders(str(models), 1), 2.0, ("semantic_tokens",))
