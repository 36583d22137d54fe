"""The exported file gives the same music, in a process that knows nothing of this package."""

import os
import re
import signal
import subprocess
import sys
import wave
import zipfile

import numpy as np
import pytest

from melody_jax import Request, audio_io, output_files
from melody_jax.errors import UserError
from melody_jax.generation.exported import loader
from melody_jax.generation.exported.writer import write_sampler
from tests.configs import load_config


@pytest.fixture(scope="module")
def exported(tiny_models, tmp_path_factory):
  folder = tmp_path_factory.mktemp("exported")
  config = load_config("sample")
  config.update(checkpoint=str(tiny_models), steps=2, prompt="slow bossa nova | techno")
  config.lm.guidance_scale = 1.0  # as the settings it is compared with
  write_sampler(config, str(folder / "x.sampler"), ("cpu",))
  with zipfile.ZipFile(folder / "x.sampler") as archive:
    archive.extract("loader.py", folder)
  return folder


def test_it_gives_the_same_audio_without_the_package(exported, melody, settings):
  code = (
    "import sys, numpy as np, loader\n"
    "s = loader.Sampler.load('x.sampler')\n"
    "a = s('techno', seconds=14, seed=6)\n"
    "numbers = {'steps': 3, 'schedule': 'uniform', 'guidance_scale': 1.5}\n"
    "b = s(s.styles['techno'], seconds=1, seed=6, **numbers)\n"
    "np.savez('made.npz', a=a, b=b)\n"
    "found = {m.split('.')[0] for m in sys.modules}\n"
    "assert not found & {'melody_jax', 'flax', 'safetensors', 'librosa', 'ml_collections'}, found\n"
  )
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  made = np.load(exported / "made.npz")
  want = melody.generate(Request("techno", seconds=14, seed=6), settings).audio
  np.testing.assert_allclose(made["a"][0], want, atol=1e-4)
  assert made["b"].shape == (1, 24_000)
  assert np.abs(made["b"][0] - want[:24_000]).max() > 1e-4


def test_its_command_writes_a_wav(exported):
  command = [sys.executable, "loader.py", "x.sampler", "--seconds=2", "--out=x.wav"]
  subprocess.run(command, cwd=exported, check=True)
  with wave.open(str(exported / "x.wav")) as f:
    assert (f.getframerate(), f.getnchannels(), f.getnframes()) == (24_000, 1, 48_000)


def test_an_interrupt_while_it_imports_is_one_line(tmp_path):
  # In place of JAX, whose import takes seconds.
  (tmp_path / "jax.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
  process = subprocess.Popen(
    [sys.executable, loader.__file__, "x.sampler"],
    env={**os.environ, "PYTHONPATH": str(tmp_path)},
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
  )  # fmt: skip
  assert process.stdout.readline() == "here\n"
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=30)[1] == "loader.py: error: interrupted\n"
  assert process.returncode == 130


GATE = [
  (["--seconds=-3"], {}, "--seconds is -3.0; it takes 1 to 600"),
  (["--seconds=0"], {}, "--seconds is 0.0; it takes 1 to 600"),
  (["--seconds=nan"], {}, "--seconds is nan"),
  (["--seconds=601"], {}, "--seconds is 601.0; it takes 1 to 600"),
  (["--seed=4294967296"], {}, "seed is 4294967296; it takes 0 to 4294967295"),
  (["--seed=-2"], {}, "seed is -2; it takes 0 to 4294967295"),
  (["--steps=0"], {}, "steps is 0; it takes 1 to 100"),
  (["--steps=101"], {}, "steps is 101; it takes 1 to 100"),
  (["--out=x.mp3"], {}, "'x.mp3' must end in .wav"),
  (["--out=x"], {}, "'x' must end in .wav"),
  (["--out=no/x.wav"], {}, "no is no directory"),
  (["--out=d.wav"], {"d.wav": None}, "d.wav is no ordinary file"),
  (["--out=y.wav"], {"y.wav": b"RIFF a recording"}, "was not written by this program"),
  ([f"--out={'s' * 256}.wav"], {}, "too long"),
  (["--style=polka"], {}, "no style 'polka' in this file; it has: slow bossa nova, techno"),
]


@pytest.mark.parametrize(("arguments", "there", "message"), GATE)
def test_its_command_goes_by_the_gate_of_sample(
  exported, tmp_path, monkeypatch, capsys, arguments, there, message
):
  monkeypatch.chdir(tmp_path)
  for name, content in there.items():
    (tmp_path / name).mkdir() if content is None else (tmp_path / name).write_bytes(content)
  monkeypatch.setattr(loader.Sampler, "_next", lambda *_: pytest.fail("it began to work"))
  monkeypatch.setattr(sys, "argv", ["loader.py", str(exported / "x.sampler"), *arguments])
  with pytest.raises(SystemExit) as exit_:
    loader.main()
  (line,) = capsys.readouterr().err.splitlines()
  assert exit_.value.code == 2 and line.startswith("loader.py: error: ") and message in line
  assert {p.name for p in tmp_path.iterdir()} == set(there)
  assert all(c is None or (tmp_path / n).read_bytes() == c for n, c in there.items())


def test_what_is_no_sampler_is_said(tmp_path, monkeypatch, capsys):
  (tmp_path / "x.sampler").write_bytes(b"abc")
  for name, message in (("x.sampler", "no exported sampler"), ("none.sampler", "No such file")):
    monkeypatch.setattr(sys, "argv", ["loader.py", str(tmp_path / name)])
    with pytest.raises(SystemExit):
      loader.main()
    assert message in capsys.readouterr().err


def test_numbers_are_checked_when_called(exported):
  sampler = loader.Sampler.load(exported / "x.sampler")
  cases = (
    ({"seed": 1.5}, "seed is 1.5; it takes whole numbers"),
    ({"seed": 2**32}, "seed is 4294967296"),
    ({"seconds": float("inf")}, "seconds is inf; it takes 1 or more"),
    ({"steps": 2.5}, "steps is 2.5; it takes whole numbers"),
    ({"guidance_scale": -1}, "guidance_scale is -1; it takes 0 to 30"),
    ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
    ({"n_steps": 5}, "'n_steps' was not exported"),
    ({"style": [0] * 11}, "a style is a prompt of the file, or 12 integers of 0 to 7"),
    ({"style": [0.5] * 12}, "a style is a prompt of the file"),
    ({"style": [-1] * 12}, "a style is a prompt of the file"),
  )
  for keys, message in cases:
    with pytest.raises(ValueError, match=re.escape(message)):
      sampler(**{"style": "techno", **keys})


def test_a_batch_is_written_whole_and_over_its_own_files_only(exported, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)

  def run(*arguments):
    options = [str(exported / "x.sampler"), "--seconds=1", *arguments]
    monkeypatch.setattr(sys, "argv", ["loader.py", *options])
    loader.main()

  rows = np.stack([np.linspace(-1, 1, 101), np.linspace(1, -1, 101)])
  monkeypatch.setattr(loader.Sampler, "__call__", lambda self, *a, **k: rows[: self.batch])
  run()
  run()  # over what it wrote
  (tmp_path / "sample.wav").write_bytes(b"RIFF mine")
  run("--overwrite")
  assert output_files.is_ours(tmp_path / "sample.wav")
  load = loader.Sampler.load

  def two(path):
    sampler = load(path)
    sampler.batch = 2
    return sampler

  monkeypatch.setattr(loader.Sampler, "load", two)
  run("--seed=5")
  assert {p.name for p in tmp_path.iterdir()} == {"sample.wav", "sample-5.wav", "sample-6.wav"}
  back = audio_io.load(tmp_path / "sample-6.wav")
  np.testing.assert_allclose(back, 0.99 * rows[1], atol=1e-4)


def test_what_it_cannot_do_is_said(exported, tiny_models, tmp_path):
  sampler = loader.Sampler.load(exported / "x.sampler")
  with pytest.raises(ValueError, match="no style 'polka' in this file; it has: slow bossa nova"):
    sampler("polka")
  with pytest.raises(ValueError, match="steps is 101"):
    sampler("techno", steps=101)
  with pytest.raises(ValueError, match="was not exported"):
    sampler("techno", lm_guidance_scale=3.0)
  config = load_config("sample")
  config.update(checkpoint=str(tiny_models), prompt="x")
  with pytest.raises(UserError, match="must end in one of .sampler"):
    write_sampler(config, str(tmp_path / "x.zip"), ("cpu",))
  for key in ("negative_prompt", "weights", "times", "music_prompt"):
    config[key] = "0.5"
    with pytest.raises(UserError, match=f"without config.{key}: leave it out"):
      write_sampler(config, str(tmp_path / "x.sampler"), ("cpu",))
    config[key] = ""
  with pytest.raises(UserError, match="it takes some of"):
    write_sampler(config, str(tmp_path / "x.sampler"), ("abacus",))
  assert not list(tmp_path.iterdir())
