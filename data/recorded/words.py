"""Captions of recordings, from the album's style, the file's name and measurements."""

import numpy as np

from data.captions import distinct, join_words, tempo_word, tidy
from data.descriptors import ClipWords
from data.recorded.packages import Package
from data.recorded.scenes import find_scene, find_style
from data.tracks import Description

# Genre tags that are true of nearly every file here, so they tell nothing.
_GENERIC_GENRES = {
  "", "soundtrack", "game", "game soundtrack", "game music", "music", "sound fx", "(none)", "vgm",
}  # fmt: skip


def describe_recording(
  rng: np.random.Generator, package: Package, path: str, title: str, genre: str, heard: ClipWords
) -> Description:
  """Writes caption variants and tags for one clip.

  Args:
    rng: Source of the random choices.
    package: Package of the recording; it gives the style.
    path: "package/path". Folder and file name suggest a scene.
    title: Title. It is searched for scene words and never quoted.
    genre: Genre tag of the file, or "" if there is none or it is not trusted.
    heard: Words for the measurements of the clip.
  """
  scene = find_scene(path, title)
  style, style_tags = find_style(path, title)
  genre = "" if genre.lower() in _GENERIC_GENRES else genre.lower()
  phrases = ((style,) if style else ()) + package.phrases
  # Two different ones: captions of a clip should not repeat each other.
  phrase, other = (phrases[i] for i in rng.permutation(len(phrases))[:2])
  # The precise style in half of the captions, so that the album's words are learnt too.
  if style and rng.random() < 0.5:
    phrase = style
  mood = str(rng.choice(scene.moods)) if scene else ""
  pace = tempo_word(heard.tempo) if heard.tempo else ""
  # A tempo estimate may be twice the true one. The measured energy is safer.
  if pace == "upbeat" and heard.energy == "calm":
    pace = ""
  feel = [w for w in (heard.energy, heard.colour) if w]
  feel = [feel[i] for i in rng.permutation(len(feel))]
  place = f"for {scene.phrase}" if scene else ""
  beat = heard.percussion or heard.pulse
  key = f"in a {heard.mode} key" if heard.mode else ""
  about = f"around {heard.tempo} bpm" if heard.tempo else ""
  opening = ", ".join([*feel[:1], *([pace] if pace else [])]) or mood
  qualities = join_words([w for w in (mood, *feel) if w])
  # Words that every tune of a game deserves say nothing about this one.
  kind = str(rng.choice([tag for tag in package.tags if tag not in ("soundtrack", "theme")]))
  # Long sentences, short phrases and lists of tags: users write all of these as prompts.
  captions = [
    f"{opening} {phrase} {beat} {place}, {key}, {about}",
    f"{tidy(other)} that sounds {qualities}, {place}" if qualities else f"{other} {place}",
    f"{feel[-1] if feel else mood} {phrase}",
    f"{mood} {kind} music {place}",
    f"{pace} {genre or other} {beat}",
  ]
  captions = [_clean(text, full_stop=i < 2) for i, text in enumerate(captions)]
  tags = [*style_tags, *([genre] if genre else []), *package.tags, *(scene.tags if scene else ())]
  tags += [*feel, *([pace] if pace else []), *([f"{heard.mode} key"] if heard.mode else [])]
  tags += ["percussive"] if "strong" in heard.percussion else []
  tags = list(dict.fromkeys(tags))
  listed = [tags[i] for i in rng.permutation(len(tags))[: int(rng.integers(3, 7))]]
  if scene and rng.random() < 0.5:
    captions.append(
      _clean(f"music for {scene.phrase}, {mood} and {feel[0] if feel else package.tags[0]}")
    )
  return Description(distinct([*captions, ", ".join(listed)]), tags)


def _clean(text: str, full_stop: bool = False) -> str:
  parts = [part.strip() for part in text.split(",")]
  text = ", ".join(part for part in parts if part)
  return tidy(text, full_stop=True) if full_stop else " ".join(text.split())
