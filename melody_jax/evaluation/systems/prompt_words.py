"""What the words of a prompt ask of a clip: a family of sound, tags of MagnaTagATune, a tempo."""

from collections.abc import Mapping, Sequence
import re

# Family -> words that ask for it. Its name is the tag that it is heard by, among the tagger's 50.
FAMILIES: Mapping[str, str] = {
  "piano": r"pianos?",
  "strings": r"strings?|violins?|cellos?|fiddles?",
  # The family is that of acoustic ones.
  "guitar": r"(?<!electric )(?<!distorted )(?<!bass )(?<!steel )guitars?",
  "flute": r"flutes?",
  "drums": r"drums?|percussion|grooves?",
  "techno": r"techno",
  "ambient": r"ambient|drones?|pads?",
  "choir": r"choirs?|choral",
}
# Tags that prompts also ask for by other words; all tags by their own.
_SYNONYMS = {
  "drums": r"drums?|percussion|grooves?",
  "violin": r"violins?|fiddles?",
  "choral": r"choirs?|choral",
  "choir": r"choirs?|choral",
  "ambient": r"ambient|drones?|pads?",
  "synth": r"synths?|synthesi[sz]ers?|pads?",
}
_SLOW = r"slow|slowly|largo|adagio|lento"
_FAST = r"fast|quick|rapid|up-?tempo|presto|allegro"


def _says(words: str, text: str) -> re.Match | None:
  return re.search(rf"(?<!\w)(?:{words})(?!\w)", text.lower())


def family_of(prompt: str) -> str:
  """The family that a prompt names first, or "": the flute in "a flute melody over strings"."""
  places = {name: _says(words, prompt) for name, words in FAMILIES.items()}
  found = {name: match.start() for name, match in places.items() if match}
  return min(found, key=found.__getitem__) if found else ""


def asked_tags(prompt: str, tags: Sequence[str]) -> list[bool]:
  """Which of some tags a prompt asks for, by their own words, in the plural too, or by others."""
  return [bool(_says(_SYNONYMS.get(tag, rf"{re.escape(tag)}s?"), prompt)) for tag in tags]


def tempo_of(prompt: str) -> str:
  """The tempo that a prompt says, "slow" or "fast"; "" for neither or both."""
  slow, fast = _says(_SLOW, prompt), _says(_FAST, prompt)
  if bool(slow) == bool(fast):
    return ""
  return "slow" if slow else "fast"
