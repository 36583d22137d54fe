"""The Debian packages of the recorded corpus: music files, authors and licences."""

import dataclasses
import fnmatch
import json
import pathlib
import re
from typing import Any

from data.files import Found, find_files


@dataclasses.dataclass(frozen=True)
class Package:
  """One Debian package with music.

  Attributes:
    name: Name of the package.
    music: Regular expression. A file is music if its path matches.
    licence, author: Licence and author of each file for which nothing more precise is found.
    phrases: Phrases for the kind of music, true of the whole package.
    tags: Tags, true of the whole package.
    test_only: Whether the package is for testing only. No model trains on its kind of music.
    trust_tags: Whether the tags inside its files are right.
  """

  name: str
  music: str
  licence: str
  author: str
  phrases: tuple[str, ...]
  tags: tuple[str, ...]
  test_only: bool = False
  trust_tags: bool = True


PACKAGES = (
  Package("colobot-common-sounds", "music/", "GPL-3+", "Daniel Roux, Emxx52 and TerranovaTeam",
          ("electronic science fiction game music", "synthesizer soundtrack", "electronic music"),
          ("electronic", "synthesizer", "science fiction", "video game")),
  Package("fretsonfire-songs-sectoid", r"song\.ogg$", "MIT", "Carlos Viola Iborra",
          ("instrumental rock with electric guitars", "guitar rock instrumental",
           "instrumental metal and rock"),
          ("rock", "metal", "electric guitar", "instrumental")),
  Package("hyperrogue-music", "music/", "CC-BY-SA-3.0", "",
          ("atmospheric game music", "ambient fantasy game music"),
          ("video game", "atmospheric", "fantasy"), test_only=True, trust_tags=False),
  Package("naev-data", "music/", "GPL-3+", "",
          ("space synth music", "spacefaring game soundtrack", "science fiction soundtrack"),
          ("space", "synthesizer", "science fiction", "soundtrack")),
  Package("nexuiz-music", "cdtracks/", "GPL-2+", "Alientrap",
          ("techno and electro rock", "driving techno", "electronic shooter game music"),
          ("techno", "electronic", "electro rock", "video game")),
  Package("pushover-data", "themes/", "GPL-3+", "Roberto Lorenz",
          ("puzzle game theme", "video game theme"),
          ("video game", "theme"), test_only=True, trust_tags=False),
  Package("singularity-music", "music/", "CC-BY-SA-3.0", "Max McCracken",
          ("ambient electronic music", "ambient techno", "futuristic synthesizer music"),
          ("ambient", "electronic", "techno", "futuristic")),
  Package("supertux-data", "music/", "GPL-2+", "SuperTux team",
          ("video game music", "playful platform game tune", "light-hearted game music"),
          ("video game", "playful", "cheerful")),
  Package("ufoai-music", "music/", "GPL-2+", "The UFO:AI team",
          ("science fiction soundtrack", "sci-fi electronic and orchestral music",
           "cinematic strategy game music"),
          ("science fiction", "electronic", "cinematic", "soundtrack")),
  Package("warzone2100-music", "music/", "GPL-2+", "Martin Severn",
          ("dark ambient techno", "post-apocalyptic electronic music",
           "dark ambient electronic soundtrack"),
          ("dark ambient", "techno", "electronic", "post-apocalyptic")),
  Package("wesnoth-1.16-music", "music/", "GPL-2+", "The Battle for Wesnoth composers",
          ("orchestral fantasy music", "romantic orchestral soundtrack",
           "symphonic fantasy soundtrack"),
          ("orchestral", "fantasy", "classical", "soundtrack")),
)  # fmt: skip

# Folders of effects and speech, and copies that macOS leaves in archives.
_NOT_MUSIC = re.compile(r"/sounds/|speech|__MACOSX")
_AUDIO = re.compile(r"\.(ogg|opus)$")
# In ufoai-music a file name is more precise about the author than the copyright file.
_UFOAI_AUTHORS = (
  (r"^Crystan", "Christian Hoffmann (Crystan)"), (r"^Marine", "Marine Baklund"),
  (r"^David", "David Reeves (Destructavator)"), (r"^van_", "Manuel Marino (Vanethian)"),
  (r"^Psymong", "Psymong"), (r"^azrael", "azrael1322"), (r"^karlmacklin", "Karl Macklin"),
  (r"Slippycurb", "Slippycurb"),
)  # fmt: skip


def music_files(package: Package, root: pathlib.Path) -> Found:
  """Finds the music of an unpacked package. Sound effects and speech are left out.

  Args:
    package: The package.
    root: Directory in which it was unpacked.

  Returns:
    Sorted paths relative to `root`, and lines on links that were not followed.

  Raises:
    UserError: A folder cannot be listed.
  """

  def is_music(where: str) -> bool:
    wanted = _AUDIO.search(where) and re.search(package.music, where)
    return bool(wanted) and not _NOT_MUSIC.search(where)

  # A link out of the package leads into this machine, which differs from others.
  return find_files(root, is_music, outside=False)


def _copyright_paragraphs(text: str) -> list[tuple[list[str], str, str]]:
  """Reads a Debian copyright file: (file patterns, owners, licence) of each Files paragraph."""
  paragraphs = []
  # Paragraphs are separated by empty lines, fields begin at the margin, as Debian's format 1.0 has
  # it.
  for block in re.split(r"\n\s*\n", text):
    fields, name = {}, ""
    for line in block.splitlines():
      match = re.match(r"([A-Za-z-]+):\s*(.*)$", line)
      if match:
        name = match.group(1)
        fields[name] = [match.group(2)]
      elif name:
        fields[name].append(line.strip())
    # Other paragraphs (the header, licence texts) name no files.
    if fields.get("Files") and fields.get("License"):
      owners = ", ".join(part for part in fields.get("Copyright", []) if part)
      paragraphs.append((" ".join(fields["Files"]).split(), owners, fields["License"][0].strip()))
  return paragraphs


def _from_copyright(root: pathlib.Path, package: str, where: str) -> tuple[str, str]:
  """Finds the (licence, owner) of one file in the package's copyright file, or ("", "")."""
  path = root / "usr/share/doc" / package / "copyright"
  if not path.exists():
    return "", ""
  name = "music/" + where.rsplit("music/", 1)[-1]
  found = ("", "")
  for patterns, owners, licence in _copyright_paragraphs(path.read_text(errors="replace")):
    # Patterns name the source tree, so only the part from "music/" on can match. The last match
    # wins, as Debian has it. Of three or more owners none can be called the author.
    if any(fnmatch.fnmatch(name, p[p.index("music/") :]) for p in patterns if "music/" in p):
      found = licence, owners if owners.count(",") < 2 else ""
  return found


def _naev_credits(root: pathlib.Path) -> dict[str, tuple[str, str]]:
  """Reads {file name: (licence, author)} from naev's SOUND_LICENSE.yaml, line by line."""
  credits, author, licence, section = {}, "", "", ""
  path = root / "usr/share/naev/dat/snd/SOUND_LICENSE.yaml"
  for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
    text = line.strip()
    if line.startswith("- "):
      # Without the address that follows a name.
      author = re.sub(r"\s*[<(].*", "", text[2:].rstrip(":"))
    elif text.startswith("license:"):
      licence = text.split(":", 1)[1].strip()
    elif text.endswith(":"):
      section = text[:-1]
    elif section == "music" and text.startswith("- "):
      credits[text[2:].strip()] = (_canonical_licence(licence), author)
  return credits


def _canonical_licence(text: str) -> str:
  # Authors write "GPLv3", "CC-by 3" or "PD"; the licence filter needs one spelling.
  options = []
  for option in re.split(r"\s*/\s*|\s+or\s+", text.strip()):
    option = re.sub(r"^GPLv?", "GPL-", re.sub(r"\s+", "-", option), flags=re.IGNORECASE)
    option = re.sub(r"^CC-by", "CC-BY", re.sub(r"-sa", "-SA", option), flags=re.IGNORECASE)
    option = re.sub(r"^(CC-BY(?:-SA)?)-(\d)$", r"\1-\2.0", option)
    options.append("public-domain" if option == "PD" else option.replace("--", "-"))
  return " or ".join(options)


def _warzone_credits(root: pathlib.Path) -> dict[str, tuple[str, str, str, float]]:
  """Reads {"album/file": (licence, author, title, bpm)} from the album.json beside the tracks."""
  credits = {}
  for album in sorted(root.rglob("album.json")):
    content = json.loads(album.read_text())
    dual = (album.parent / "license.txt").exists()
    for entry in content["tracks"]:
      # The enhanced version does not have the album's second licence.
      derived = entry["filename"].startswith("track3_enhanced")
      licence = "CC-BY-SA-3.0+ or GPL-2+" if dual and not derived else "GPL-2+"
      name = f"{album.parent.name}/{entry['filename']}"
      author = entry.get("author", content.get("author", ""))
      credits[name] = (licence, author, entry["title"], float(entry.get("bpm", 0)))
  return credits


def credits_of(package: Package, root: pathlib.Path, files: list[str]) -> dict[str, dict[str, Any]]:
  """Collects what a package says about its own files.

  Args:
    package: The package.
    root: Directory in which it was unpacked.
    files: Paths of its music, relative to `root`.

  Returns:
    {path: {"licence", "author", "title", "bpm"}}. An unknown author or title is "", an unknown
    tempo is 0. The licence is always known.
  """
  naev = _naev_credits(root) if package.name == "naev-data" else {}
  warzone = _warzone_credits(root) if package.name == "warzone2100-music" else {}
  rows = {}
  for where in files:
    name = where.rsplit("/", 1)[-1]
    licence, owner = _from_copyright(root, package.name, where)
    if package.name not in ("hyperrogue-music", "ufoai-music"):
      owner = ""  # names one owner for a whole folder; the tags in the files are more precise
    title, bpm = "", 0.0
    if name in naev:
      licence, owner = naev[name]
    if "/".join(where.rsplit("/", 2)[-2:]) in warzone:
      licence, owner, title, bpm = warzone["/".join(where.rsplit("/", 2)[-2:])]
    if package.name == "ufoai-music":
      owner = next((who for pattern, who in _UFOAI_AUTHORS if re.search(pattern, name)), owner)
    rows[where] = {
      "licence": licence or package.licence,
      "author": re.sub(r"\s*[(<](?:http|www)\S*|\s*<[^>]*@[^>]*>", "", owner),
      "title": title,
      "bpm": bpm,
    }
  return rows
