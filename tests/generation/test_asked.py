"""What was asked is what was made, or the command says what is not."""

import contextlib
import json
import threading

import numpy as np
import pytest

from melody_jax import Request, Settings, output_files
from melody_jax.errors import UserError
from melody_jax.generation import stream_writer
from melody_jax.sample import sample
from tests.configs import load_config

LONG = "slow bossa nova with nylon guitar " * 20
MESSAGES = [
  (LONG, 'not heard: "'),
  ("calm 🎹 piano", "does not know 🎹 and hears nothing there"),
  ("quiet \U00020000 drums | ꧁ loud", "does not know ꧁ and hears"),
]


def configured(tiny_models, **keys):
  config = load_config("sample")
  config.update(checkpoint=str(tiny_models), steps=2, prompt="waltz", seconds=1.0)
  config.lm.guidance_scale = 1.0  # as in `settings`, whose programs are compiled already
  for key, value in keys.items():
    node = config
    *parents, leaf = key.split("__")
    for parent in parents:
      node = node[parent]
    node[leaf] = value
  return config


@pytest.mark.parametrize(("prompt", "message"), MESSAGES)
@pytest.mark.parametrize("mode", ["generate", "stream"])
def test_what_is_not_heard_is_said_and_reported(
  loaded, tiny_models, tmp_path, capsys, prompt, message, mode
):
  out = str(tmp_path / "x.wav")
  sample(configured(tiny_models, prompt=prompt, mode=mode, out=out))
  lines = [line for line in capsys.readouterr().err.splitlines() if message in line]
  assert len(lines) >= 1, message
  report = json.loads((tmp_path / "x.json").read_text())
  assert any(message in line for line in report["not_heard"])


def test_python_is_warned(melody, settings):
  with pytest.warns(UserWarning, match="does not know 🎹"):
    melody.generate(Request("calm 🎹 piano", seconds=1), settings)
  stream = melody.stream(Request("waltz"), settings)
  with pytest.warns(UserWarning, match="not heard"):
    stream.steer(LONG)


def test_nothing_is_said_of_a_common_prompt(loaded, tiny_models, tmp_path, capsys):
  sample(configured(tiny_models, prompt="slow bossa nova, 96 bpm", out=str(tmp_path / "x.wav")))
  assert "hear" not in capsys.readouterr().err
  assert json.loads((tmp_path / "x.json").read_text())["not_heard"] == []


def test_a_resumed_stream_reports_itself(loaded, tiny_models, tmp_path, capsys):
  save, out = str(tmp_path / "a.state"), str(tmp_path / "y.wav")
  keys = {"mode": "stream", "seconds": 2.5}
  first = configured(tiny_models, **keys, seed=77, out=str(tmp_path / "x.wav"), stream__save=save)
  first.prompt, first.steps = "fast techno", 3
  sample(first)
  resumed = configured(tiny_models, **keys, prompt="", seed=5, out=out, stream__resume=save)
  sample(resumed)
  assert "goes on with its own seed, 77" in capsys.readouterr().err
  report = json.loads((tmp_path / "y.json").read_text())
  assert (report["seed"], report["prompt"], report["resumed"]) == (77, "fast techno", save)
  assert report["steps"] == 2  # how to sample is asked for anew
  resumed.prompt = "quiet harp"
  sample(resumed)
  report = json.loads((tmp_path / "y.json").read_text())
  assert (report["seed"], report["prompt"]) == (77, "quiet harp")
  for key in ("times", "negative_prompt"):
    with pytest.raises(UserError, match=f"config.{key} and config.stream.resume are both set"):
      config = configured(tiny_models, **keys, out=out, stream__resume=save, **{key: "1"})
      config.lm.guidance_scale = 2.0
      sample(config)


def test_several_streams_of_one_state_are_no_command(loaded, melody, tiny_models, tmp_path):
  stream = melody.stream([Request("a"), Request("b")], Settings(steps=2, lm_guidance_scale=1.0))
  next(stream)
  stream.save(tmp_path / "two.state")
  config = configured(tiny_models, mode="stream", stream__resume=str(tmp_path / "two.state"))
  config.out = str(tmp_path / "x.wav")
  with pytest.raises(UserError, match="holds 2 streams side by side"):
    sample(config)


@pytest.mark.parametrize("other", ["x.wav", "x.flac"])
@pytest.mark.parametrize("mode", ["stream", "generate"])
def test_two_commands_do_not_write_one_file(
  loaded, tiny_models, tmp_path, monkeypatch, other, mode
):
  """x.flac is another file, but its report is the same x.json."""
  begun, may_end = threading.Event(), threading.Event()
  write = stream_writer.FileSink.write

  def slow(self, audio):
    begun.set()
    may_end.wait(60)
    write(self, audio)

  monkeypatch.setattr(stream_writer.FileSink, "write", slow)
  # Signals belong to the main thread.
  monkeypatch.setattr(stream_writer, "_ends_the_stream", contextlib.nullcontext)
  first = configured(tiny_models, mode="stream", out=str(tmp_path / "x.wav"))
  worker = threading.Thread(target=sample, args=(first,))
  worker.start()
  try:
    assert begun.wait(120)
    with pytest.raises(UserError, match="is being written by another command"):
      sample(configured(tiny_models, mode=mode, out=str(tmp_path / other)))
  finally:
    may_end.set()
    worker.join(120)
  assert {p.name for p in tmp_path.iterdir()} == {"x.wav", "x.json"}
  sample(first)  # over what it wrote itself, and nothing is locked any more


def test_ours_is_replaced_and_others_only_when_asked(loaded, tiny_models, tmp_path):
  config = configured(tiny_models, out=str(tmp_path / "x.wav"))
  sample(config)
  first = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
  sample(config)
  assert all(p.stat().st_ino != first[p.name] for p in tmp_path.iterdir())
  (tmp_path / "x.png").write_bytes(b"a cover")
  with pytest.raises(UserError, match="allow it with --config.overwrite=True"):
    sample(config)
  config.overwrite = True
  sample(config)
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_stream_keeps_its_state_where_its_file_has_no_room(
  loaded, tiny_models, tmp_path, monkeypatch
):
  def full(self, audio):
    raise UserError("the disk is full")

  monkeypatch.setattr(stream_writer.FileSink, "write", full)
  config = configured(tiny_models, mode="stream", out=str(tmp_path / "x.wav"))
  config.stream.save = str(tmp_path / "x.state")
  with pytest.raises(UserError, match="the disk is full"):
    sample(config)
  assert [p.name for p in tmp_path.iterdir()] == ["x.state"]


@pytest.mark.parametrize("seed", [1.5, True, "1", -1, 2**32, float("nan"), None])
def test_seeds_are_integers(seed):
  with pytest.raises(UserError, match="seed is"):
    Request("a", seed=seed)


def test_whole_numbers_are_whole():
  assert Request("a", seed=np.int64(2**32 - 1)).seed == 2**32 - 1
  for option in ("steps", "top_k", "repetition_span"):
    with pytest.raises(UserError, match=f"{option} is 2.5; it takes whole numbers"):
      Settings(**{option: 2.5})


def test_a_killed_command_leaves_no_lock(tmp_path):
  """The lock lies in the file system's memory, not in the file."""
  name = tmp_path / "x.json"
  with output_files.claim([name]):
    (lock,) = tmp_path.iterdir()
    with pytest.raises(UserError, match="is being written"), output_files.claim([name]):
      pass
  lock.write_bytes(b"")  # what a killed process leaves
  with output_files.claim([name]):
    pass
  assert not list(tmp_path.iterdir())
