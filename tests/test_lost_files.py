"""No command overwrites what it reads or what somebody else wrote, and it says so before the work.

One table over all commands that write. Everything below the directory must be as it was.
"""

import os
import pathlib
import sys

import numpy as np
import pytest

from melody_jax import audio_io, cli
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.provenance import MARK
from tests.test_wrong_inputs import COMMANDS

NOT_OURS = "is there already and was not written by melody_jax"
READ = "is read by this command and would be overwritten"
ALLOW = "allow it with --config.overwrite=True"
SAMPLE = "sample --config=configs/sample.py --config.prompt=a --config.checkpoint={tmp}"
STREAM = f"{SAMPLE} --config.mode=stream --config.out=x.wav"
CONTINUE = f"{SAMPLE} --config.mode=continue --config.audio=x.wav"
EXPORTED = "export_sampler --config=configs/sample.py --config.prompt=a --out=x.sampler"
PLAN = "plan --config=configs/lm.py:tiny --topology=cpu:2 --out=x.json"
EVALUATE = "evaluate --config=configs/evaluate.py:all --config.bundle={tmp} --config.out=out"
EXPORT = "export --config=configs/vae.py:tiny --workdir=run --config.export.bundle=out"
FIT = "fit --config=configs/fit.py:style --config.bundle=out"
TRAIN = "train --config=configs/vae.py:tiny --workdir=out --config.data.path={tmp}/data"
ENCODE = "encode --config=configs/encode.py --config.source=data --config.features=audio"

FOLDER, CLIP = "a directory", "a clip"
# (command, what lies there: {name: content, FOLDER, CLIP or "-> target" of a link}, what is said).
ROWS = [
  # Somebody else's files.
  (f"{SAMPLE} --config.out=x.wav", {"x.png": "a cover"}, f"x.png {NOT_OURS}: write"),
  (f"{SAMPLE} --config.out=x.flac", {"x.json": '{"artist": "me"}'}, f"x.json {NOT_OURS}"),
  (f"{SAMPLE} --config.out=x.wav", {"x.json": '{"versions": "melody_jax"}'}, ALLOW),
  (f"{SAMPLE} --config.out=x.wav", {"x.wav": CLIP}, f"x.wav {NOT_OURS}"),
  (f"{SAMPLE} --config.out=x.wav", {"x.png": "-> nowhere"}, f"x.png {NOT_OURS}"),
  (f"{SAMPLE} --config.out=x.wav --config.count=2", {"x-1.png": "a cover"}, f"x-1.png {NOT_OURS}"),
  (STREAM, {"x.json": "{}"}, f"x.json {NOT_OURS}"),
  (f"{STREAM} --config.stream.save=x.state", {"x.state": "mine"}, f"x.state {NOT_OURS}"),
  (
    f"{STREAM} --config.stream.save=vae.safetensors",
    {"vae.safetensors": '{"__metadata__":{"model_config":"{}"}}'}, f"vae.safetensors {NOT_OURS}",
  ),
  (EXPORTED, {"x.sampler": "mine"}, f"x.sampler {NOT_OURS}"),
  (PLAN, {"x.json": '{"plan": 1}'}, f"x.json {NOT_OURS}: write to another name, or move it away"),
  (EVALUATE, {"out/mulan.json": "[]"}, f"out/mulan.json {NOT_OURS}"),
  (EVALUATE, {"out/codec.md": "# Notes"}, f"out/codec.md {NOT_OURS}"),
  (EXPORT, {"out/vae.safetensors": "mine"}, f"out/vae.safetensors {NOT_OURS}"),
  (FIT, {"out/mulan.safetensors": "mine"}, f"out/mulan.safetensors {NOT_OURS}"),
  (TRAIN, {"out/config.json": '{"task": 1}'}, f"out/config.json {NOT_OURS}"),
  # What the command reads, by whatever name.
  (f"{CONTINUE} --config.out=x.wav", {"x.wav": CLIP}, f"x.wav {READ}"),
  (f"{CONTINUE} --config.out=x.wav --config.overwrite=True", {"x.wav": CLIP}, READ),
  (f"{CONTINUE} --config.out=y.wav", {"x.wav": CLIP, "y.wav": "-> x.wav"}, f"y.wav {READ}"),
  (f"{CONTINUE} --config.out=y.wav", {"x.wav": CLIP, "y.wav": "=> x.wav"}, f"y.wav {READ}"),
  (f"{CONTINUE} --config.out=d/../x.wav", {"x.wav": CLIP, "d": FOLDER}, f"d/../x.wav {READ}"),
  (
    f"{SAMPLE} --config.music_prompt=x.wav --config.out={{tmp}}/x.wav", {"x.wav": CLIP},
    f"{{tmp}}/x.wav {READ}",
  ),
  (
    f"{STREAM} --config.stream.save=x.state --config.stream.resume=./x.state",
    {"x.state": MARK}, f"x.state {READ}",
  ),
  (
    f"{EXPORTED} --config.checkpoint=b",
    {"b/lm.safetensors": MARK, "x.sampler": "=> b/lm.safetensors"}, f"x.sampler {READ}",
  ),
  (f"{ENCODE} --config.out={{tmp}}/data", {}, "is the source itself"),
  (f"{ENCODE} --config.out=d", {"d": "-> data"}, "is the source itself"),
  # One name twice.
  (f"{STREAM} --config.stream.save=x.json", {}, "x.json would be written twice"),
  (f"{STREAM} --config.stream.save=x.wav", {}, "x.wav would be written twice"),
  # Names that cannot be written, all of them known before the work.
  (f"{SAMPLE} --config.out=x.wav", {"x.png": FOLDER}, "x.png is a directory: name a file"),
  (f"{SAMPLE} --config.out=x.wav", {"x.json": FOLDER}, "x.json is a directory: name a file"),
  (f"{SAMPLE} --config.out={'s' * 251}.wav", {}, "the name is too long: shorten it"),
  (f"{SAMPLE} --config.out={'s' * 249}.wav --config.count=2", {}, "the name is too long"),
  (f"{SAMPLE} --config.out={'音' * 84}.wav", {}, "the name is too long: shorten it"),
  (f"{SAMPLE} --config.out=no/x.wav", {}, "no does not exist; create it first"),
  (f"{STREAM} --config.stream.save=no/x.state", {}, "no does not exist; create it first"),
  (f"{STREAM} --config.stream.save=d", {"d": FOLDER}, "d is a directory: name a file"),
  (f"{STREAM} --config.stream.save={'s' * 256}", {}, "the name is too long: shorten it"),
  (EXPORTED, {"x.sampler": FOLDER}, "x.sampler is a directory: name a file"),
  (PLAN, {"x.json": FOLDER}, "x.json is a directory: name a file"),
  (EVALUATE, {"out": "a file"}, "out is not a directory"),
  (EVALUATE, {"out/prompts.md": FOLDER}, "out/prompts.md is a directory"),
  (EXPORT, {"out": "a file"}, "out is not a directory"),
  (EXPORT, {"out/vae.safetensors": FOLDER}, "out/vae.safetensors is a directory"),
  (FIT, {"out": "a file"}, "out is not a directory"),
  (f"{ENCODE} --config.out=out", {"out": "a file"}, "out is not a directory"),
  (f"{ENCODE} --config.out=out/further/down", {"out": "a file"}, "out is not a directory"),
  # Nothing kept.
  (f"{TRAIN} --config.train.keep=0", {}, "config.train.keep is 0; it takes 1 or more"),
  (f"{TRAIN} --config.train.keep=-1", {}, "config.train.keep is -1; it takes 1 or more"),
]  # fmt: skip


def put(root: pathlib.Path, there: dict[str, str]) -> None:
  for name, content in there.items():
    path = root / name
    path.parent.mkdir(exist_ok=True)
    if content == FOLDER:
      path.mkdir()
    elif content == CLIP:
      noise = 0.1 * np.random.default_rng(0).normal(size=36_000)
      import soundfile

      soundfile.write(path, noise, 24_000)
    elif content.startswith("-> "):
      path.symlink_to(content[3:])
    elif content.startswith("=> "):
      path.hardlink_to(root / content[3:])
    else:
      path.write_text(content)


def seen(root: pathlib.Path) -> dict[str, object]:
  """Everything below a directory, as bytes, link or directory."""
  return {
    str(p.relative_to(root)): os.readlink(p) if p.is_symlink() else p.is_dir() or p.read_bytes()
    for p in root.rglob("*")
  }


@pytest.mark.parametrize(("line", "there", "expected"), ROWS)
def test_nothing_is_lost(line, there, expected, tmp_path, repository, monkeypatch, capsys):
  writer = ShardWriter(tmp_path / "data", "train", 0, 1, {"audio": Feature(24_000, "int16")})
  writer.close()
  put(tmp_path, there)
  before = seen(tmp_path)
  monkeypatch.chdir(tmp_path)
  command, config, *rest = line.format(tmp=tmp_path).split(" ")
  config = config.replace("configs/", f"{repository}/configs/")
  monkeypatch.setattr(sys, "argv", [command, config, *rest])
  main, options = COMMANDS[command]
  with pytest.raises(SystemExit) as exit_:
    cli.run(main, **options)
  assert exit_.value.code == 2
  (error,) = [s for s in capsys.readouterr().err.splitlines() if not s.startswith("[")]
  assert expected.format(tmp=tmp_path) in error
  assert seen(tmp_path) == before


def test_every_command_that_writes_is_in_the_table():
  assert {line.split(" ")[0] for line, _, _ in ROWS} == set(COMMANDS)


@pytest.mark.parametrize("suffix", [*audio_io.FORMATS, ".png"])
def test_what_was_written_is_known_again(tmp_path, suffix):
  import soundfile

  from melody_jax.output_files import is_ours

  path, audio = tmp_path / f"x{suffix}", np.zeros(24_000, np.float32)
  if suffix == ".png":
    path.write_bytes(audio_io.spectrogram_png(audio))
  else:
    soundfile.write(path, audio[:4800], 24_000)
    assert not is_ours(path)
    path.write_bytes(audio_io.encode(audio, suffix))
  assert is_ours(path)
