import dataclasses
import json

import numpy as np
import pytest

from melody_jax import audio as audio_io
from melody_jax import bundle, diffusion
from melody_jax.errors import UserError
from melody_jax.generation.pipeline import Pipeline, Settings
from melody_jax.sample import SCHEDULES
from melody_jax.windows import overlapping_windows
from tests import tiny_bundle

SETTINGS = Settings(steps=2)
STYLE = np.arange(36, dtype=np.int32).reshape(3, 12) % 8


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  return tiny_bundle.write(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def melody(directory):
  return Pipeline.load(directory)


@pytest.fixture(scope="module")
def three(melody):
  return melody.generate(STYLE, [5, 6, 5], 10.0, SETTINGS)


def test_length_rate_and_passes(melody, three):
  assert three.audio.shape == (3, 240_000) and three.audio.dtype == np.float32
  assert np.isfinite(three.audio).all()
  assert three.nfe == 250 + 2  # LM passes and DPD steps: 25 a second, and the steps
  again = melody.generate(STYLE, [5, 6, 5], 1.25, SETTINGS)
  assert again.audio.shape == (3, 30_000)
  assert again.compile_seconds < 0.1  # the same program
  np.testing.assert_array_equal(again.audio, three.audio[:, :30_000])


def test_an_item_does_not_depend_on_its_batch(melody, three):
  alone = melody.generate(STYLE[1:2], [6], 10.0, SETTINGS)
  np.testing.assert_allclose(alone.audio[0], three.audio[1], atol=1e-4)


def test_seed_and_style_steer(melody, three):
  same, other = (melody.generate(STYLE[1:2], [seed], 10.0, SETTINGS).audio for seed in (6, 7))
  np.testing.assert_allclose(same[0], three.audio[1], atol=1e-4)
  assert np.abs(same - other).max() > 1e-3
  styled = melody.generate(STYLE[:1], [6], 10.0, SETTINGS).audio
  assert np.abs(same - styled).max() > 1e-3


def test_longer_music_begins_like_shorter_music(melody, three):
  long = melody.generate(STYLE[1:2], [6], 16.0, SETTINGS)
  assert long.audio.shape == (1, 384_000)
  # 16 s is a window and three more chunks, whose tokens are drawn in steps of a chunk.
  assert long.nfe == 500 + 4 * 2
  until = round(9.3 * melody.sample_rate)  # the decoder hears what follows, a little
  np.testing.assert_allclose(long.audio[0, :until], three.audio[1, :until], atol=1e-4)
  assert np.std(long.audio[0, 250_000:]) > 0


def test_settings_out_of_range(melody):
  assert set(SCHEDULES) == set(diffusion.SCHEDULES)
  for settings in (
    dataclasses.replace(SETTINGS, schedule="cubic"), dataclasses.replace(SETTINGS, temperature=-1.0)
  ):  # fmt: skip
    with pytest.raises(UserError):
      melody.generate(STYLE[:1], [0], 10.0, settings)


def test_styles_are_deterministic_and_in_range(melody):
  texts = melody.style_of_text(["slow bossa nova", "fast techno"])
  np.testing.assert_array_equal(melody.style_of_text(["slow bossa nova", "fast techno"]), texts)
  noise = np.random.default_rng(0).normal(size=(1, 300_000)).astype(np.float32)
  music = melody.style_of_music(0.1 * noise)
  for tokens in (texts, music):
    assert tokens.shape[1] == 12 and tokens.min() >= 0 and tokens.max() < 8


@pytest.mark.parametrize("seconds", [3.0, 25.3])
def test_codec_in_windows_equals_codec_in_one_piece(melody, seconds):
  n = round(seconds * 24_000)
  clip = 0.1 * np.random.default_rng(1).normal(size=n).astype(np.float32)
  made = melody.reconstruct(clip)
  assert made.audio.shape == (1, n) and made.nfe == 0
  padded = np.pad(clip, (0, -n % 480))
  whole = np.asarray(melody.codec.decode(melody.codec.encode(padded[None])))[:, :n]
  inside = slice(None, n - 24_000)  # at its end a short clip is followed by silence
  np.testing.assert_allclose(made.audio[:, inside], whole[:, inside], atol=1e-4)


def test_models_that_do_not_fit_are_refused(directory, tmp_path):
  for path in directory.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  codebooks = np.zeros((3, 8, 128), np.float32)
  bundle.update(tmp_path / "mulan.safetensors", {"rvq": {"codebooks": codebooks}}, {})
  with pytest.raises(UserError, match="3 style levels, lm 12"):
    Pipeline.load(tmp_path)
  (tmp_path / "lm.safetensors").unlink()
  with pytest.raises(UserError, match="no checkpoint at"):
    Pipeline.load(tmp_path)


def test_the_command_writes_audio_picture_and_report(directory, tmp_path, repository):
  from melody_jax.sample import sample
  from tests.configs import load_config

  config = load_config("sample")
  config.update(prompt="slow bossa nova", checkpoint=str(directory), steps=2, seed=3)
  config.out = str(tmp_path / "x.ogg")
  report = sample(config)
  assert audio_io.probe_seconds(tmp_path / "x.ogg") == pytest.approx(10.0, abs=1e-3)
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
  written = json.loads((tmp_path / "x.json").read_text())
  assert written["prompt"] == "slow bossa nova" and written["seed"] == 3 and written["steps"] == 2
  assert written["nfe"] == report["nfe"] == 252 and written["guidance_scale"] == 2.5
  assert written["checkpoint_sha256"] == bundle.digest(directory)
  for key in ("compile_seconds", "generation_seconds", "real_time_factor", "device", "versions"):
    assert written[key]
  assert len(list(tmp_path.iterdir())) == 3

  config.update(mode="reconstruct", prompt="", audio=str(tmp_path / "x.ogg"))
  config.out = str(tmp_path / "y.wav")
  sample(config)
  assert len(audio_io.load(tmp_path / "y.wav")) == 240_000


@pytest.mark.parametrize(
  ("n", "length", "context"), [(10, 10, 2), (11, 10, 2), (57, 10, 2), (57, 9, 0)]
)
def test_windows_cover_without_gaps(n, length, context):
  windows = overlapping_windows(n, length, context)
  assert [w.begin for w in windows] == [0] + [w.end for w in windows[:-1]]
  assert windows[-1].end == n
  for w in windows:
    assert w.start >= 0 and w.start + length <= n
    assert w.begin - w.start >= context or w.start == 0
    assert w.start + length - w.end >= context or w.start + length == n
