"""Small helpers for writing captions: tempo words, lists, articles, clean sentences."""

from collections.abc import Sequence
import re

# Each word holds below its limit, in beats per minute. Fixed here, so that a tempo word means the
# same in every corpus.
_TEMPO_WORDS = ((70, "very slow"), (92, "slow"), (112, "mid-tempo"), (138, "upbeat"), (172, "fast"))


def tempo_word(tempo: float) -> str:
  """Word that a listener would use for a tempo ("slow", "upbeat", "fast", ...).

  Args:
    tempo: Tempo in beats per minute.
  """
  return next((word for limit, word in _TEMPO_WORDS if tempo < limit), "very fast")


def article(phrase: str) -> str:
  """Puts "a" or "an" before a phrase."""
  # The sound counts, not the letter: "an 8-bit tune", "an R&B ballad", but "a unison".
  sounds_like_a_vowel = re.match(r"[aeiou]|8|11\b|18\b|hono|R&B|r&b|SF", phrase) and not re.match(
    r"(one|uni|use|eu)", phrase, re.IGNORECASE
  )
  return f"{'an' if sounds_like_a_vowel else 'a'} {phrase}"


def join_words(words: Sequence[str]) -> str:
  """Joins words as an English list: "a", "a and b", "a, b and c"."""
  # Also for no words at all: callers join whatever they have.
  if len(words) < 2:
    return "".join(words)
  return f"{', '.join(words[:-1])} and {words[-1]}"


def tidy(sentence: str, full_stop: bool = False) -> str:
  """Cleans a sentence that was put together from parts, some of which may be empty.

  Args:
    sentence: Text, possibly with double blanks or a blank before a comma.
    full_stop: Whether to end with a full stop.

  Returns:
    The text with single blanks and a capital letter at its start.
  """
  sentence = re.sub(r"\s+([,.])", r"\1", " ".join(sentence.split())).strip(" ,")
  sentence = sentence[:1].upper() + sentence[1:]
  return sentence + "." if full_stop and not sentence.endswith((".", "!", "?")) else sentence


def distinct(texts: Sequence[str]) -> list[str]:
  """Non-empty texts in their order, without repeats."""
  return list(dict.fromkeys(text for text in texts if text))
