"""The exported file gives the same music, in a process that knows nothing of this package."""

import subprocess
import sys
import wave
import zipfile

import numpy as np
import pytest

from melody_jax import Request
from melody_jax.errors import UserError
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


def test_what_it_cannot_do_is_said(exported, tiny_models, tmp_path):

  from melody_jax.generation.exported import loader

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
  with pytest.raises(UserError, match="it takes some of"):
    write_sampler(config, str(tmp_path / "x.sampler"), ("abacus",))
  assert not list(tmp_path.iterdir())
