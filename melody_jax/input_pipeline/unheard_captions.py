"""What of the captions of a data set never reaches the text tower, told once before training.

A text tower reads a fixed number of tokens and knows a fixed vocabulary. The end of a long caption
is cut off and foreign words are one token for all, in training as in sampling.
"""

from collections.abc import Callable, Iterable
import itertools
from typing import Protocol

from melody_jax.progress import Progress, print_progress

_BATCH = 4096  # captions tokenised at once
_SHOWN = 60  # letters of an example


class Reader(Protocol):
  """A tokeniser that can say what it loses: `text.Tokenizer`."""

  length: int

  def losses(self, texts: list[str]) -> list[tuple[bool, bool]]:
    """(is its end cut off, does it hold what the vocabulary lacks), for each text."""

  def unheard(self, text: str) -> tuple[str, list[str]]:
    """(the end that is cut off, words and signs that are not known)."""


def tell(
  captions: Iterable[str], reader: Reader, where: str, progress: Progress = print_progress
) -> None:
  """Says how many captions are cut, and how many hold what is not known; nothing if none.

  Args:
    captions: All captions; equal ones count once.
    reader: The tokeniser that training uses.
    where: What they are captions of, for the message.
    progress: Takes the lines.
  """
  total, cut, unknown = 0, [], []
  rest = iter(dict.fromkeys(captions))
  while texts := list(itertools.islice(rest, _BATCH)):
    total += len(texts)
    for text, (is_cut, has_unknown) in zip(texts, reader.losses(texts), strict=True):
      if is_cut:
        cut.append(text)
      if has_unknown:
        unknown.append(text)
  if cut:
    line = (
      f"{where}: {len(cut)} of {total} captions are longer than the {reader.length} tokens that"
    )
    line += " the text tower reads; their ends are not heard"
    _say(progress, line, cut, lambda text: reader.unheard(text)[0])
  if unknown:
    line = (
      f"{where}: {len(unknown)} of {total} captions hold words or signs that the text tower does"
    )
    _say(progress, f"{line} not know", unknown, lambda text: " ".join(reader.unheard(text)[1]))


def _say(progress: Progress, line: str, texts: list[str], lost: Callable[[str], str]) -> None:
  # Of a text that is cut, what is not known may stand behind the cut.
  example = next(filter(None, map(lost, texts)), "")
  progress(line + (f" (the first: {example[:_SHOWN]!r})" if example else ""))
