"""Prompts from a file, seeds that are drawn, and times as people write them."""

import json
import time

import pytest

from melody_jax import cli
from melody_jax.config import seconds_of
from melody_jax.errors import UserError
from melody_jax.generation import config as keys
from melody_jax.generation import prompt_list
from melody_jax.generation.options import MAX_SEED
from tests.configs import load_config


@pytest.fixture
def prompts(tmp_path):
  def write(text: str):
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    config = load_config("sample")
    config.update(prompts=str(path), out=str(tmp_path / "x.wav"), seed=3)
    return config

  return write


def test_each_line_is_a_piece(prompts):
  config = prompts("\ufeffslow bossa\n\n# a remark\n 7: techno | jazz \n9\tcafé\r\n")
  found = prompt_list.pieces(config)
  assert [(p.prompt, p.seed) for p in found] == [
    ("slow bossa", 3),
    ("techno | jazz", 7),
    ("café", 9),
  ]
  assert [p.out[-7:] for p in found] == ["x-1.wav", "x-2.wav", "x-3.wav"]
  keys.check(config)
  requests = keys.requests_of(config, keys.Clips(None, None), found)
  assert [len(r.prompt) for r in requests] == [1, 2, 1] and [r.seed for r in requests] == [3, 7, 9]
  assert len(keys.outputs_of(config, found)) == 9
  of_one = prompt_list.config_of(config, found[1])
  assert (of_one.prompt, of_one.seed, of_one.prompts) == ("techno | jazz", 7, "")
  assert prompt_list.pieces(of_one) == found[1:2]


def test_a_dozen_is_numbered_in_order(prompts):
  found = prompt_list.pieces(prompts("a\n" * 12))
  assert [p.out[-8:] for p in found[::11]] == ["x-01.wav", "x-12.wav"]


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "has 0 prompts"),
    ("a\n-3: b", "line 2: the seed is -3; it takes 0 to 4294967295"),
    ("a\n\n7:  ", "line 3: no prompt behind the seed"),
    ("a" * 1001, "line 1 is 1001 characters long"),
    ("a\n1:30 of rain", "line 2 begins with '1:30', which may be a time or a seed"),
    ("0:05-0:10 drums", "line 1 begins with '0:05-0:10', which may be a time or a seed"),
  ],
)
def test_bad_files(prompts, text, said):
  with pytest.raises(UserError, match=said):
    keys.check(prompts(text))


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"prompt": "b"}, "config.prompts and config.prompt are both set"),
    ({"weights": "1"}, "config.weights are both set"),
    ({"count": 2}, "leave out config.count"),
    ({"mode": "stream"}, "makes one"),
    ({"prompts": "nowhere.txt"}, "cannot read config.prompts nowhere.txt"),
    ({"seed": MAX_SEED}, "config.seed with config.prompts is 4294967296"),
  ],
)
def test_bad_settings(prompts, changes, said):
  config = prompts("a\nb\n")
  config.update(changes)
  with pytest.raises(UserError, match=said):
    keys.check(config)


def test_a_file_that_is_no_text(prompts, tmp_path):
  config = prompts("a")
  (tmp_path / "prompts.txt").write_bytes(b"caf\xe9\n")
  with pytest.raises(UserError, match="not UTF-8"):
    keys.check(config)


def test_batches_have_nearly_one_size():
  assert prompt_list.batches(3) == [range(3)]
  assert [len(b) for b in prompt_list.batches(33)] == [11, 11, 11]
  assert sum(len(b) for b in prompt_list.batches(50)) == 50


def test_a_seed_is_drawn_only_when_asked():
  config = load_config("sample")
  assert prompt_list.with_seed(config) is config
  config.seed = -1
  drawn = {prompt_list.with_seed(config).seed for _ in range(3)}
  assert len(drawn) > 1 and all(0 <= seed <= MAX_SEED for seed in drawn)


@pytest.mark.parametrize(
  ("text", "seconds"), [("65.5", 65.5), ("1:05.5", 65.5), (" 0:07 ", 7), ("1:02:03", 3723)]
)
def test_times(text, seconds):
  assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "a", "1:60", "1:-1", "-1:05", "1:2:3:4", "1:99:00", "1.5:00"])
def test_what_is_no_time(text):
  with pytest.raises(ValueError):
    seconds_of(text)


def test_regions_and_lengths_in_minutes(repository, monkeypatch):
  monkeypatch.chdir(repository)
  argv = ["sample", "--config=configs/sample.py", "--config.regions=0:03.5-5, 1:05-1:20"]
  config, _ = cli.parse([*argv, "--config.seconds=1:30", "--config.times=0, 0:20"])
  assert keys._regions(config) == [(3.5, 5), (65, 80)]
  assert config.seconds == 90 and keys._numbers(config, "times") == [0, 20]
  for apart in ("=", " "):
    with pytest.raises(UserError, match="config.seconds is '1:75'; it takes seconds, or minutes"):
      cli.parse([*argv, *f"--config.seconds{apart}1:75".split()])
  argv = [*argv[:2], "--config.overwrite", "--config.seconds", "1:30", "--config.regions", "1:05-2"]
  config, _ = cli.parse([*argv, "--config.times", "0:20"])
  assert config.overwrite and config.seconds == 90
  assert (config.regions, config.times) == ("1:05-2", "0:20")


def test_ten_thousand_prompts_are_made_requests_of_in_no_time(prompts, tmp_path):
  config = prompts("".join(f"{seed}: piano number {seed}\n" for seed in range(10_000)))
  began = time.process_time()
  pieces = prompt_list.pieces(config)
  assert len(keys.requests_of(config, keys.Clips(None, None), pieces)) == len(pieces) == 10_000
  assert time.process_time() - began < 3.0  # a config for each took ten seconds and more


def test_the_command_makes_all_and_reports_each(loaded, tiny_models, prompts, tmp_path):
  from melody_jax.sample import sample

  config = prompts("slow bossa\n7: techno\n")
  config.update(checkpoint=str(tiny_models), steps=2, seconds=1.0, seed=-1)
  config.lm.guidance_scale = 1.0
  sample(config)
  reports = [json.loads((tmp_path / f"x-{i}.json").read_text()) for i in (1, 2)]
  assert [r["prompt"] for r in reports] == ["slow bossa", "techno"]
  assert reports[0]["seed"] >= 0 and reports[1]["seed"] == 7
  assert {p.suffix for p in tmp_path.glob("x-2.*")} == {".wav", ".png", ".json"}
