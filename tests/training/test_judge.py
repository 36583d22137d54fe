"""What models in training make is heard by a MuLan: scores that mean something, in every log."""

import types

import jax
import numpy as np
import pytest

from melody_jax import sharding
from melody_jax.errors import UserError
from melody_jax.task import make_task
from melody_jax.training import loop
from melody_jax.training.judge import Judge, make_judge
from tests import tiny_bundle
from tests.configs import load_config
from tests.training.datasets import run_config, write_audio, write_encoded


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
  return tiny_bundle.write(tmp_path_factory.mktemp("bundle"), ("vae", "mulan", "dpd"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  write_audio(root / "audio")
  write_encoded(root / "encoded")
  return root


@pytest.mark.parametrize("model", ["vae", "dpd", "lm"])
def test_scores_are_in_the_log_of_every_evaluation(model, bundle, data, tmp_path, capsys):
  pytest.importorskip("tensorboardX")
  config = run_config(model, data, 2)
  config.train.judge = str(bundle)
  # Tokens of the tiny recipe: a second of them is enough to listen to.
  if model == "lm":
    config.window_seconds = 1.0
    config.model.window_tokens = 25
  loop.train(config, tmp_path)
  (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("step 2 validation")]
  words = line.split()
  fad, mcc = (float(words[words.index(name) + 1]) for name in ("fad", "mcc"))
  assert fad > 1e-6 and -1 <= mcc <= 1
  events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
  assert b"validation/fad" in events and b"validation/mcc" in events


def judge_of(made, bundle, clips=8):
  """A judge of a task that makes `made` of every batch."""
  config = load_config("vae", "tiny")
  config.train.update(judge=str(bundle), judge_clips=clips)
  task = types.SimpleNamespace(
    makes="audio",
    made=lambda params, batch, rng: made(batch["audio"]),
    wanted=lambda batch: batch["audio"],
  )
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  return Judge(config, task, mesh)


def test_a_perfect_model_is_at_no_distance_and_noise_is_further_than_a_little_noise(bundle):
  rng = np.random.default_rng(0)
  t = np.arange(24_000) / 24_000
  tones = np.stack([0.3 * np.sin(2 * np.pi * 110 * 2 ** (i / 3) * t) for i in range(8)])
  batch = {"audio": tones.astype(np.float32)}
  noise = (0.3 * rng.normal(size=tones.shape)).astype(np.float32)
  found = [
    judge_of(lambda x, share=share: (1 - share) * x + share * noise, bundle)(
      {}, batch, jax.random.key(0)
    )
    for share in (0.0, 0.02, 1.0)
  ]
  assert found[0]["fad"] == pytest.approx(0, abs=1e-6)
  assert found[0]["mcc"] == pytest.approx(1, abs=1e-5)
  assert found[0]["fad"] < found[1]["fad"] < found[2]["fad"]
  assert found[0]["mcc"] > found[1]["mcc"] > found[2]["mcc"]


def test_what_is_no_number_is_told_as_infinitely_far(bundle):
  batch = {"audio": np.ones((2, 2400), np.float32)}
  found = judge_of(lambda x: x * np.nan, bundle)({}, batch, jax.random.key(0))
  assert found == {"fad": float("inf"), "mcc": 0.0}


def test_what_cannot_be_heard_is_refused_in_one_line(bundle, tmp_path):
  def refused(model, message, **settings):
    config = load_config(model, "tiny")
    config.train.update(judge=str(bundle), media=True, eval_every=1)
    config.train.update(settings)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with pytest.raises(UserError, match=message):
      make_judge(config, make_task(config), mesh)

  refused("mulan", "a mulan makes nothing that one can listen to")
  refused("vae", "listens at evaluations", media=False)
  refused("vae", "listens at evaluations", eval_every=0)
  refused("dpd", "mulan.safetensors", judge=str(tmp_path))
