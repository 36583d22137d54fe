"""Words shared by the corpora: tempo words, lists, articles, and drawing of variants."""

from collections.abc import Sequence
import re

# Upper limits, beats per minute.
_TEMPO_WORDS = ((70, "very slow"), (92, "slow"), (112, "mid-tempo"), (138, "upbeat"), (172, "fast"))


def tempo_word(tempo: float) -> str:
  """A listener's word for a tempo in beats per minute: "slow", "fast", ..."""
  return next((word for limit, word in _TEMPO_WORDS if tempo < limit), "very fast")


def article(phrase: str) -> str:
  """The phrase with "a" or "an" before it."""
  sounds_like_a_vowel = re.match(r"[aeiou]|8|11\b|18\b|hono|R&B|r&b|SF", phrase) and not re.match(
    r"(one|uni|use|eu)", phrase, re.IGNORECASE
  )
  return f"{'an' if sounds_like_a_vowel else 'a'} {phrase}"


def join_words(words: Sequence[str]) -> str:
  """Writes a list as English: "a", "a and b", "a, b and c"."""
  if len(words) < 2:
    return "".join(words)
  return f"{', '.join(words[:-1])} and {words[-1]}"


def tidy(sentence: str, full_stop: bool = False) -> str:
  """Collapses blanks, starts with a capital letter, and ends with a full stop if asked."""
  sentence = re.sub(r"\s+([,.])", r"\1", " ".join(sentence.split())).strip(" ,")
  sentence = sentence[:1].upper() + sentence[1:]
  return sentence + "." if full_stop and not sentence.endswith((".", "!", "?")) else sentence


def distinct(texts: Sequence[str]) -> list[str]:
  """The non-empty texts in order, each once."""
  return list(dict.fromkeys(text for text in texts if text))
