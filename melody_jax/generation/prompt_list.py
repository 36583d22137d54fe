"""The pieces that one call of the command makes: of several seeds, or of a file of prompts.

A file of prompts has one a line, and a seed in front where one is wanted:

    slow bossa nova with nylon guitar
    7: dark ambient techno
    # a remark; blank lines do not count either
"""

import dataclasses
import itertools
import pathlib
import re
import secrets

import ml_collections

from melody_jax.errors import UserError
from melody_jax.generation.options import MAX_SEED, check_option, check_prompt_length

DRAW = -1  # a seed that asks for one to be drawn
MAX_PROMPTS = 10_000
# Pieces that go through the sampler together: the memory of so many suffices on a small machine.
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Line:
  """One prompt of a file.

  Attributes:
    text: What it should sound like.
    seed: Its seed; None: the one that its place in the file gives it.
  """

  text: str
  seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Piece:
  """One piece of music that a call makes.

  Attributes:
    prompt: What it should sound like.
    seed: Its seed.
    out: Its audio file.
  """

  prompt: str
  seed: int
  out: str


def read(path: str) -> list[Line]:
  """Reads a file of prompts.

  Args:
    path: File, UTF-8.

  Raises:
    UserError: naming the file, and the line where one is wrong.
  """
  try:
    # A byte order mark, which editors on Windows write, is no part of the first prompt.
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as e:
    raise UserError(f"config.prompts {path} is not UTF-8: save it as UTF-8 text") from e
  except OSError as e:
    raise UserError(f"cannot read config.prompts {path}: {e.strerror}; check the path") from e
  found = []
  for number, line in enumerate(text.split("\n"), 1):
    if not line.strip() or line.lstrip().startswith("#"):
      continue
    where = f"config.prompts {path}, line {number}"
    seeded = re.match(r"\s*(-?\d+)\s*[:\t](.*)", line)
    if time := re.match(r"\s*\d+:\d\S*", line):
      # Seed 1, or one and a half minutes? Either guess would make other music without a word.
      raise UserError(
        f"{where} begins with {time[0].strip()!r}, which may be a time or a seed: put a blank after"
        " the colon of a seed, or a word before a time"
      )
    prompt = Line(line.strip())
    if seeded:
      prompt = Line(seeded[2].strip(), int(seeded[1]))
      check_option("seed", prompt.seed, f"{where}: the seed")
    if not prompt.text.strip("| "):
      raise UserError(f"{where}: no prompt behind the seed")
    for part in prompt.text.split("|"):
      check_prompt_length(where, part.strip())
    found.append(prompt)
  if not 1 <= len(found) <= MAX_PROMPTS:
    raise UserError(
      f"config.prompts {path} has {len(found)} prompts; it takes 1 to {MAX_PROMPTS}, one a line"
    )
  return found


def with_seed(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config with a seed that was drawn, where it asks for one by -1; else as it is."""
  if config.seed != DRAW:
    return config
  config = ml_collections.ConfigDict(config.to_dict())
  # Pieces after the first take the numbers after it. Prompts of a file are at most MAX_PROMPTS.
  config.seed = secrets.randbelow(MAX_SEED - MAX_PROMPTS)
  return config


def pieces(config: ml_collections.ConfigDict) -> list[Piece]:
  """All pieces that the config asks for, by its file of prompts or by `count`.

  Raises:
    UserError: if there is a file of prompts and it is no good.
  """
  out = pathlib.Path(config.out)
  if config.prompts:
    lines = read(config.prompts)
    width = len(str(len(lines)))
    chosen = [
      # The seed of a line is that of its place: the same file gives the same music.
      (line.text, config.seed + i if line.seed is None else line.seed, f"{i + 1:0{width}}")
      for i, line in enumerate(lines)
    ]
  else:
    seeds = range(config.seed, config.seed + config.count)
    chosen = [(config.prompt, seed, str(seed) if config.count > 1 else "") for seed in seeds]
  return [
    Piece(prompt, seed, str(out.with_stem(f"{out.stem}-{mark}")) if mark else config.out)
    for prompt, seed, mark in chosen
  ]


def config_of(config: ml_collections.ConfigDict, piece: Piece) -> ml_collections.ConfigDict:
  """A config that asks for this piece alone: a copy, which takes a millisecond."""
  config = ml_collections.ConfigDict(config.to_dict())
  config.update(**dataclasses.asdict(piece), count=1, prompts="")
  return config


def batches(n: int) -> list[range]:
  """Splits n pieces into batches of nearly one size: every size is compiled for."""
  count = -(-n // BATCH)
  edges = [round(i * n / count) for i in range(count + 1)]
  return [range(a, b) for a, b in itertools.pairwise(edges)]
