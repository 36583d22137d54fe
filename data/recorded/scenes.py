"""Finds a scene and a mood for a recording from its folder, file name and title.

The results are general words only. Titles, and names of people, games and places, never reach a
caption.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Scene:
  """A place or an event that music accompanies.

  Attributes:
    phrase: The scene in words ("a boss fight").
    moods: Moods that fit the scene. A caption draws one.
    tags: Tags of the scene.
  """

  phrase: str
  moods: tuple[str, ...]
  tags: tuple[str, ...]


def _scene(pattern: str, phrase: str, moods: str, tags: str) -> tuple[re.Pattern, Scene]:
  def split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())

  return re.compile(pattern), Scene(phrase, split(moods), split(tags))


# The first pattern that matches "path title" in lower case wins, so precise ones come first.
_SCENES = (
  _scene(r"battle.?epic|dangerous_symph|siege|heroes",
         "an epic battle", "heroic, epic", "battle, epic"),
  _scene(r"bossattack|boss\b|treeboss", "a boss fight", "tense, aggressive", "boss fight, action"),
  _scene(r"casualties|defeat|lost_hope|lost hope|\bsad\b|lose\b|loose|you lose"
         r"|march thee|chimes|king_is_dead|city_falls|introsad",
         "a sad, tragic moment", "sad, mournful", "sad, tragic"),
  _scene(r"victory|wingame|\bwin\b|you win|apex|leveldone",
         "a victory", "triumphant, bright", "victory, triumphant"),
  _scene(r"love", "a tender love scene", "tender, romantic", "romantic, tender"),
  _scene(r"vengeful|frantic|revenge|breaking_the_chains|chaos|fightmare|madness",
         "an intense chase", "intense, urgent", "intense, action"),
  _scene(r"battle|combat|fight|attack|tactics|raid|warfare|\bwar\b|blast|fury|beast", "a battle",
         "tense, aggressive", "battle, action"),
  _scene(r"suspense|tension|intrigue|sinister|imminent|threat|enemy|shadows|alien",
         "a suspenseful scene",
         "suspenseful, ominous", "suspense, tension"),
  _scene(r"ghost|halloween|graveyard|hell\b|rlyeh|dark.?forest|bogus", "a haunted place",
         "eerie, spooky", "spooky, eerie"),
  _scene(r"elf|elvish|silvan|wisp", "an enchanted forest", "gentle, magical", "forest, magical"),
  _scene(r"cave|underground|deep_path|knolls|knalgan|dungeon|rabbit", "an underground cave",
         "mysterious", "cave, underground"),
  _scene(r"christmas|snow|ice|arctic|icyland|ivory",
         "a snowy landscape", "cold, sparkling", "snow, winter"),
  _scene(r"tropical|caribbean|jungle", "a tropical jungle", "sunny, lush", "tropical, jungle"),
  _scene(r"ocean|dbsea|\bsea\b", "the open sea", "wide, flowing", "sea, ocean"),
  _scene(r"desert|sahara|aztec|wasteland|heat\b", "a hot desert", "exotic, dry", "desert, exotic"),
  _scene(r"castle|fortress|palace|sanctuary", "a castle", "medieval, solemn", "castle, medieval"),
  _scene(r"japanese", "a Japanese garden", "delicate, oriental", "japanese, oriental"),
  _scene(r"greek", "ancient Greece", "mediterranean", "greek, folk"),
  _scene(r"electro\b", "an electronic game level", "mechanical, driving", "electro, electronic"),
  _scene(r"machin|mechanic|industrial|manufactur|automat|laborator", "a factory full of machines",
         "mechanical, cold", "industrial, machines"),
  _scene(r"dark.?city|subcities|toxcity|urban|city",
         "a city at night", "dark, urban", "city, urban"),
  _scene(r"airship|wind\b|clouds|bright_thunders|storm|thunder", "flying through stormy skies",
         "adventurous, sweeping", "flight, adventure"),
  _scene(r"mountain|northern|north\b",
         "wide northern mountains", "majestic, wide", "mountains, majestic"),
  _scene(r"agricultur|forest|green|stroll|breeze|peace", "a peaceful green landscape",
         "peaceful, pastoral", "nature, peaceful"),
  _scene(r"nebu|space|cosmo|orbital|galactic|void|stars|starry|liftoff|launch|geosphere"
         r"|geoscape|simulacra",
         "a journey through space", "spacious, futuristic", "space, futuristic"),
  _scene(r"journey|wander|travel|minstrel|return|path|map\b|worldmap", "a long journey",
         "adventurous, hopeful", "journey, adventure"),
  _scene(r"march", "a marching parade", "proud, rhythmic", "march"),
  _scene(r"disko|invincible|upbeat|dance|twist|salcon",
         "a dance", "upbeat, joyful", "dance, upbeat"),
  _scene(r"jazz", "a jazzy interlude", "jazzy, playful", "jazz"),
  _scene(r"retro|chip", "a retro video game", "nostalgic, chirpy", "retro, chiptune"),
  _scene(r"menu|theme|intro|credits|main|option|tutorial",
         "a title screen", "memorable, broad", "main theme"),
  _scene(r"mission|operation|ops\b|command|project",
         "a secret mission", "focused, tense", "mission"),
  _scene(r"ambi|nuclear|awak|quiet|calm|moonlight|transience|dawn|revelation|feelings"
         r"|aftershock|ashes",
         "a quiet, empty landscape", "atmospheric, calm", "atmospheric, calm"),
)  # fmt: skip

# Where a package holds several kinds of music, these say more than its own phrases.
_STYLES = (
  (re.compile(r"metal madness"), "instrumental metal with electric guitars", ("metal",)),
  (re.compile(r"disko|retro/"), "chiptune dance music", ("chiptune",)),
  (re.compile(r"combat3|chaosland|war of freedom"), "instrumental rock", ("rock",)),
  (re.compile(r"orchestra|orchestral|airship_remix"), "orchestral game music", ("orchestral",)),
  (re.compile(r"jazz"), "playful electronic jazz", ("jazz",)),
  (re.compile(r"supertux.*forest/"), "folk-like game music", ("folk",)),
  (re.compile(r"supertux.*antarctic/"), "electronic game music", ("electronic",)),
  (re.compile(r"japanese"), "Japanese-style music", ("japanese",)),
  (re.compile(r"greek"), "Greek-style music", ("greek",)),
  (re.compile(r"themes/electro"), "electro music", ("electro",)),
  (re.compile(r"themes/space"), "spacey electronic music", ("electronic",)),
)  # fmt: skip


def find_scene(path: str, title: str = "") -> Scene | None:
  """Finds the scene that a file suggests.

  Args:
    path: "package/.../name.ogg".
    title: Title of the recording, or "".

  Returns:
    The scene, or None if no pattern matches.
  """
  # Folder names that all tracks of a package share must not count, or all would get one scene.
  text = re.sub(r"^.*?(?=music/|themes/|cdtracks/|sectoid/)|\.(ogg|opus)$", "", path.lower())
  text = re.sub(r"^(music|themes|cdtracks|sectoid)/", "", text.replace("albums/", ""))
  text = f"{text} {title.lower()}"
  return next((scene for pattern, scene in _SCENES if pattern.search(text)), None)


def find_style(path: str, title: str = "") -> tuple[str, tuple[str, ...]]:
  """Finds a style that is more precise than the package's own.

  Args:
    path: "package/.../name.ogg".
    title: Title of the recording, or "".

  Returns:
    (phrase, tags), or ("", ()) if no pattern matches.
  """
  text = f"{path.lower()} {title.lower()}"
  return next(((style, tags) for p, style, tags in _STYLES if p.search(text)), ("", ()))
