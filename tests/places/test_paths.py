"""`~` wherever a path is taken, and nowhere else."""

import functools

import pytest

from data import build
from melody_jax import cli
from melody_jax.config import keys_of
from melody_jax.places import config_pages, paths
from tests.configs import load_config

# Texts of configs that are no paths. A new key belongs here, or into places/paths.py.
OTHER_TEXTS = frozenset(
  (
    "audio.level", "codec.split", "conditioning.tokens", "data.eval_split", "data.modules",
    "data.source", "data.split", "data.weights",
    "distributed.coordinator", "dtype", "export.checkpoint", "export.dtype", "features",
    "loss.weighting", "mode",
    "model.attention", "model.conv_norm", "model.decoder", "model.denoiser", "model.dtype",
    "model.fine_path", "model.front",
    "model.head", "model.music_front", "model.music_pooling", "model.norms", "model.positions",
    "model.remat", "model.text_pooling", "model.tokens_from", "negative_prompt", "optimizer.name",
    "optimizer.schedule", "preset", "train.best_metric", "train.best_mode", "train.profile",
    "prompt", "prompts.sampling.schedule", "prompts.sampling.solver", "regions",
    "sampling.sampler.schedule", "sampling.sampler.solver", "schedule", "solver", "split", "splits",
    "task", "times", "train.on_nonfinite", "weights", "what",
  )
)  # fmt: skip
TRAINING = ("dpd", "lm", "mulan", "vae", "wav2vec")
PAGES = [
  *((name, preset) for name in TRAINING for preset in ("nano", "tiny")),
  *(("fit", "axes"), ("fit", "style"), ("encode",), ("evaluate",), ("sample",)),
]


def test_every_text_of_every_page_is_known_as_a_path_or_not():
  found = {
    key for page in PAGES for key, value in keys_of(load_config(*page)) if isinstance(value, str)
  }
  assert found <= paths.PATH_KEYS | paths.PATH_LIST_KEYS | OTHER_TEXTS
  assert found >= paths.PATH_KEYS | paths.PATH_LIST_KEYS  # none is misspelt


@pytest.mark.parametrize(
  ("written", "meant"),
  [
    ("~/a b", "/h/a b"), ("~", "/h"), ("a~/b", "a~/b"), ("gs://b/~/c", "gs://b/~/c"),
    ("~nobody-of-this-name/x", "~nobody-of-this-name/x"), ("", ""),
  ],
)  # fmt: skip
def test_expand(written, meant, monkeypatch):
  monkeypatch.setenv("HOME", "/h")
  assert paths.expand(written) == meant
  if written and "//" not in written:  # pathlib makes one slash of two
    assert str(paths.argument(written)) == meant


def test_expand_list(monkeypatch):
  monkeypatch.setenv("HOME", "/h")
  assert paths.expand_list("~/a, ~/b,x=~/c,/d") == "/h/a,/h/b,x=/h/c,/d"


@pytest.mark.parametrize(
  ("line", "keys"),
  [
    ("--config=sample --config.out=~/x.wav --config.prompt=~ --config.stream.save=~/s",
     {"out": "/h/x.wav", "prompt": "~", "stream.save": "/h/s"}),
    ("--config=lm:tiny --config.data.path=~/a,~/b --config.train.init_from=~/m.safetensors",
     {"data.path": "/h/a,/h/b", "train.init_from": "/h/m.safetensors"}),
    ("--config=evaluate:all --config.data=a=~/a,~/b --config.bundle=~/m",
     {"data": "a=/h/a,/h/b", "bundle": "/h/m"}),
  ],
)  # fmt: skip
def test_commands_expand_their_keys_and_no_texts(line, keys, monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", "/h")
  monkeypatch.chdir(tmp_path)
  config, workdir = cli.parse(["x", *line.split(" "), "--workdir=~/run"], needs_workdir=True)
  assert workdir == "/h/run"
  for key, meant in keys.items():
    assert functools.reduce(lambda node, part: node[part], key.split("."), config) == meant


def test_flags_of_commands_and_builders(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", "/h")
  monkeypatch.chdir(tmp_path)
  _, given = cli.parse(["x", "--config=sample", "--out=~/p.json"], strings={"out": ""})
  assert given == {"out": "/h/p.json"}
  flags = build.common_arguments("x").parse_args(["--data_dir=~/d"])
  assert str(flags.data_dir) == "/h/d"
  monkeypatch.setenv("MELODY_DATA", "~/data here")
  assert str(build.default_data_dir()) == "/h/data here"


def test_pages_are_found_by_name_from_anywhere(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  found = config_pages.folder() / "sample.py"
  for given in ("sample", "sample.py", "configs/sample.py"):
    assert config_pages.with_found_page(["x", f"--config={given}"]) == ["x", f"--config={found}"]
  assert config_pages.with_found_page(["x", "--config", "lm:tiny", "-a"])[1].endswith("lm.py:tiny")
  assert config_pages.with_found_page(["x"], "sample") == ["x", f"--config={found}"]
  assert config_pages.with_found_page(["x"]) == ["x"]
  # A file of that name where the user is comes first.
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "sample.py").write_text("")
  assert config_pages.with_found_page(["x", "--config=configs/sample.py"]) == [
    "x", "--config=configs/sample.py",
  ]  # fmt: skip
