"""Requests and settings: what they mean, and the one line for those that cannot work."""

import dataclasses

import numpy as np
import pytest

from melody_jax import Prompt, Request, Settings
from melody_jax.errors import UserError
from melody_jax.generation.config import SETTINGS_KEYS, settings_of
from melody_jax.generation.options import OPTIONS
from tests.configs import load_config

CLIP = np.zeros(5 * 24_000, np.float32)


def test_modes_and_lengths():
  assert Request("a").mode == "generate" and Request("a").n_samples == 240_000
  assert Request("a", seconds=1.5).n_samples == 36_000
  on = Request(audio=CLIP, seconds=2.0)
  assert on.mode == "continue" and on.n_samples == 7 * 24_000
  assert Request(audio=CLIP).n_samples == 15 * 24_000
  changed = Request(audio=CLIP, regions=[(1, 2)]), Request(audio=CLIP, strength=0.3)
  assert [r.mode for r in changed] == ["inpaint", "vary"]
  assert [r.n_samples for r in changed] == [len(CLIP)] * 2


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({}, "prompt is empty"),
    ({"prompt": " "}, "prompt is empty"),
    ({"prompt": "a" * 1001}, "1001 characters long; the limit is 1000"),
    ({"prompt": "a", "timeline": [(0, "b")]}, "both set"),
    ({"timeline": [(0, "a"), (0, "b")]}, "must rise"),
    ({"timeline": [(-1, "a")]}, "must rise"),
    ({"timeline": [(0, "")]}, "empty prompt"),
    ({"prompt": "a", "seed": -1}, "seed is -1"),
    ({"prompt": "a", "seconds": 0.5}, "seconds is 0.5"),
    ({"prompt": "a", "seconds": float("nan")}, "seconds is nan"),
    ({"prompt": "a", "regions": [(0, 1)]}, "give audio too"),
    ({"prompt": "a", "strength": 0.5}, "give audio too"),
    ({"audio": CLIP, "regions": [(4, 6)]}, "outside the audio of 5.00 s"),
    ({"audio": CLIP, "regions": [(2, 1)]}, "must end after it begins"),
    ({"audio": CLIP, "strength": 0.0}, "strength is 0"),
    ({"audio": CLIP, "strength": 1.5}, "strength is 1.5"),
    ({"audio": CLIP, "strength": 0.5, "seconds": 9}, "as long as that"),
    ({"audio": CLIP[:100]}, "at least 1 s"),
    ({"audio": CLIP[None]}, "must be mono"),
    ({"audio": CLIP + np.nan}, "not finite"),
  ],
)
def test_bad_requests(fields, expected):
  with pytest.raises(UserError, match=expected):
    Request(**fields)


def test_bad_prompts():
  with pytest.raises(UserError, match="a text or a clip"):
    Prompt("a", audio=CLIP)
  with pytest.raises(UserError, match="weight"):
    Prompt("a", weight=float("nan"))
  with pytest.raises(UserError, match="all weights"):
    Request([Prompt("a", weight=0.0)])


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"steps": 0}, "steps is 0; it takes 1 to 100"),
    ({"schedule": "cubic"}, "one of linear, uniform"),
    ({"solver": "euler"}, "one of ddim, ab2"),
    ({"dtype": "int8"}, "one of float32, bfloat16"),
    ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
    ({"guidance_interval": (0.5, 0.5)}, "guidance_interval"),
    ({"guidance_rescale": 2}, "guidance_rescale is 2"),
    ({"temperature": -1}, "temperature is -1"),
    ({"top_k": 0}, "top_k is 0"),
    ({"top_p": 0.0}, "top_p is 0"),
    ({"repetition_span": 0}, "repetition_span is 0"),
  ],
)
def test_bad_settings(fields, expected):
  with pytest.raises(UserError, match=expected):
    Settings(**fields)


def test_every_option_of_settings_has_one_range_and_one_key():
  fields = {f.name for f in dataclasses.fields(Settings)} - {"guidance_interval"}
  assert fields == set(SETTINGS_KEYS) and fields <= set(OPTIONS)
  config = load_config("sample").to_dict()
  for key in SETTINGS_KEYS.values():
    *parents, leaf = key.split(".")
    assert leaf in (config[parents[0]] if parents else config)


def test_the_command_and_python_sample_alike_by_default():
  assert settings_of(load_config("sample")) == Settings()


@pytest.mark.parametrize("sample", [np.nan, np.inf, 1e30])
def test_absurd_audio_is_refused(sample):
  audio = np.full(48_000, 0.1, np.float32)
  audio[7] = sample
  for fields in ({"audio": audio}, {"prompt": "a", "audio": audio}):
    with pytest.raises(UserError, match="audio holds"):
      Request(**fields)
  with pytest.raises(UserError, match="audio holds"):
    Prompt(audio=audio)
