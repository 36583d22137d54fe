"""Whatever is wrong with a request ends in one clear line and a non-zero exit."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from melody_jax import audio_io, cli, output_files
from melody_jax.sample import sample


@pytest.fixture
def complaint(monkeypatch, capsys, repository, tmp_path):
  """Runs the command in this process with arguments; returns its one line of complaint."""

  def run(*arguments: str, out: str = str(tmp_path / "x.wav")) -> str:
    argv = ["sample", "--config=configs/sample.py", f"--config.out={out}", *arguments]
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as exit_:
      cli.run(sample)
    assert exit_.value.code == 2
    lines = [s for s in capsys.readouterr().err.splitlines() if not s.startswith("[")]
    assert len(lines) == 1, lines
    assert not list(tmp_path.glob("x.*"))
    return lines[0]

  return run


PROMPT = "--config.prompt=quiet piano"


@pytest.mark.parametrize(
  ("argument", "expected"),
  [
    ("--config.promt=piano", "prompt"),
    ("--config.lm.temprature=1", "temperature"),
    ("--config.seconds=ten", "seconds"),
    ("--config.prompt=", "prompt is empty"),
    ("--config.prompt=   ", "prompt is empty"),
    ("--config.prompt=" + "a" * 10_000, "10000 characters long; the limit is 1000"),
    ("--config.mode=remix", "one of generate, continue, inpaint, vary, stream, reconstruct"),
    ("--config.music_prompt=none.ogg", "none.ogg does not exist"),
    ("--config.music_prompt=/dev/null", "/dev/null is no ordinary file but a pipe or a device"),
    ("--config.prompt[0]=a", "an option with [...] names a place"),
    ("--config.seconds=1:5x", "config.seconds is '1:5x'; it takes seconds, or minutes"),
    ("--config.seconds=:30", "config.seconds is ':30'; it takes seconds, or minutes"),
    ("--config.weights=1,2", "2 numbers for 1 prompts"),
    ("--config.weights=much", "takes numbers with commas"),
    ("--config.times=0,10", "2 numbers for 1 texts"),
    ("--config.times=nan", "times must rise"),
    ("--config.audio=clip.wav", "config.audio goes with the modes"),
    ("--config.regions=1-2", 'goes with mode "inpaint"'),
    ("--config.strength=0.5", 'goes with the modes "vary" and "inpaint"'),
    ("--config.out=-", 'only goes with mode "stream"'),
    ("--config.stream.save=x", 'go with mode "stream"'),
    ("--config.count=0", "config.count is 0; it takes 1 to 64"),
    ("--config.solver=euler", "one of ddim, ab2"),
    ("--config.dtype=float8", "one of float32, bfloat16"),
    ("--config.guidance_low=1", "must lie under config.guidance_high"),
    ("--config.guidance_rescale=2", "config.guidance_rescale is 2"),
    ("--config.lm.repetition_span=0", "config.lm.repetition_span is 0"),
    ("--config.seconds=0", "config.seconds is 0; it takes 1 to 600"),
    ("--config.seconds=-1", "config.seconds is -1; it takes 1 to 600"),
    ("--config.seconds=1e9", "config.seconds is 1e+09; it takes 1 to 600"),
    ("--config.seconds=nan", "config.seconds is nan"),
    ("--config.steps=0", "config.steps is 0; it takes 1 to 100"),
    ("--config.seed=-2", "config.seed is -2"),
    ("--config.guidance_scale=inf", "config.guidance_scale is inf"),
    ("--config.schedule=cubic", "one of linear, uniform"),
    ("--config.lm.top_p=0", "config.lm.top_p is 0"),
    ("--config.checkpoint=nowhere", "no checkpoint at nowhere"),
  ],
)
def test_bad_setting(complaint, argument, expected):
  assert expected in complaint(PROMPT, argument)


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (["--config.mode=continue"], 'mode "continue" needs --config.audio=FILE'),
    (["--config.mode=inpaint", "--config.audio=x"], "needs --config.regions"),
    (["--config.mode=vary", "--config.audio=x"], "needs --config.strength"),
    (["--config.mode=inpaint", "--config.audio=x", "--config.regions=a"], "it takes seconds"),
    (["--config.mode=inpaint", "--config.audio=x", "--config.regions=3-2"], "end after it begins"),
    (["--config.mode=stream", "--config.seconds=-1"], "a stream takes 1 or more, or 0"),
    (["--config.mode=stream", "--config.count=2"], "makes one piece"),
    (["--config.mode=stream", "--config.audio=x", "--config.stream.resume=y"], "both set"),
    (["--config.times=0,1", "--config.prompt=a|b", "--config.weights=1,1"], "must be left out"),
    (["--config.times=3,1", "--config.prompt=a|b"], "times must rise"),
    (["--config.negative_prompt=drums", "--config.lm.guidance_scale=1"], "set that above 1"),
  ],
)
def test_settings_that_do_not_go_together(complaint, arguments, expected):
  assert expected in complaint(PROMPT, *arguments)


def test_regions_outside_the_audio(complaint, tmp_path):
  clip = write(tmp_path / "clip.wav", noise(3.0))
  arguments = ["--config.mode=inpaint", f"--config.audio={clip}"]
  assert "outside the audio of 3.00 s" in complaint(*arguments, "--config.regions=2-4")


def test_missing_config_file(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["sample", "--config=configs/smaple.py"])
  with pytest.raises(SystemExit) as exit_:
    cli.run(sample)
  assert exit_.value.code == 2 and "no config file" in capsys.readouterr().err


def write(path, samples) -> str:
  path.write_bytes(audio_io.encode(samples, path.suffix))
  return str(path)


def noise(seconds: float) -> np.ndarray:
  n = int(seconds * audio_io.SAMPLE_RATE)
  return (0.1 * np.random.default_rng(0).standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize(
  "key", ["--config.music_prompt=", "--config.mode=reconstruct --config.audio="]
)
def test_bad_clip(complaint, tmp_path, key):
  def of(path) -> str:
    *mode, clip = key.split()
    return complaint(*mode, clip + str(path))

  (tmp_path / "text.ogg").write_text("these are words")
  assert "not audio" in of(tmp_path / "text.ogg")
  assert "does not exist" in of(tmp_path / "none.ogg")
  assert "is silent" in of(write(tmp_path / "silent.wav", 0 * noise(2.0)))
  assert "0.10 s long; at least 1 s" in of(write(tmp_path / "short.wav", noise(0.1)))


def test_two_hours_are_refused_by_the_header(complaint, tmp_path):
  import soundfile

  path = tmp_path / "long.flac"
  with soundfile.SoundFile(path, "w", samplerate=8000, channels=1) as f:
    for _ in range(120):
      f.write(np.zeros(60 * 8000, np.int16))
  assert "7200 s long; the limit is 1200 s" in complaint(f"--config.music_prompt={path}")


def test_bad_output(complaint, tmp_path, monkeypatch):
  assert "does not exist" in complaint(PROMPT, out=str(tmp_path / "none" / "x.wav"))
  assert "must end in" in complaint(PROMPT, out=str(tmp_path / "x.aiff"))
  (tmp_path / "locked").mkdir(mode=0o555)
  assert "read-only" in complaint(PROMPT, out=str(tmp_path / "locked" / "x.wav"))

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(output_files.tempfile, "NamedTemporaryFile", full)
  assert "disk is full" in complaint(PROMPT)


def test_truncated_checkpoint(complaint, tmp_path):
  for model in ("mulan", "wav2vec", "lm", "dpd", "vae"):
    (tmp_path / f"{model}.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
  assert "truncated or damaged" in complaint(PROMPT, f"--config.checkpoint={tmp_path}")


def test_import_is_quick_and_pulls_in_no_tensorflow(repository):
  code = (
    "import time; t = time.time(); import melody_jax.sample, sys;"
    "print(time.time() - t); print(*[m for m in sys.modules if m in"
    " ('tensorflow', 'torch', 'seqio', 'librosa', 'matplotlib', 'tensorflow_datasets')])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
  )
  seconds, heavy, *_ = [*done.stdout.splitlines(), ""]
  assert float(seconds) < 4.0
  assert not heavy
