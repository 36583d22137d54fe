"""The recorded corpus: the music of eleven Debian packages."""

import hashlib
import pathlib

import numpy as np
import soundfile

from data import descriptors
from data.debian import fetch_packages
from data.recorded.packages import PACKAGES, Package, credits_of, music_files
from data.recorded.words import describe_recording
from data.splits import TEST, TEST_OTHER, TRAIN, VALIDATION, assign_splits, group_of
from data.tracks import Description, Track, load_audio
from melody_jax.audio_io import SAMPLE_RATE

_MIN_RATE = 22_050  # slower files are telephone-like effects, or music without its treble
_USUAL_TEMPO = 120.0


class RecordedCorpus:
  """Corpus of recordings from Debian packages. Missing packages are downloaded.

  Args:
    folder: Directory of the unpacked packages, one sub-directory each.
    packages: Packages to use; all by default.

  Attributes:
    notes: Lines on links in the packages that were not followed.

  Raises:
    UserError: A package cannot be fetched.
  """

  name = "recorded"
  splits = (TRAIN, VALIDATION, TEST, TEST_OTHER)
  origin = ""

  def __init__(self, folder: pathlib.Path, packages: tuple[Package, ...] = PACKAGES):
    self._packages = {package.name: package for package in packages}
    self._roots = dict(
      zip(self._packages, fetch_packages(list(self._packages), folder), strict=True)
    )
    self._tempi: dict[str, float] = {}  # bpm that an album states
    self._found = {name: music_files(p, self._roots[name]) for name, p in self._packages.items()}
    self.notes = [f"{name}: {note}" for name, f in self._found.items() for note in f.notes]

  def identity(self) -> None:
    """Nothing: all of it is in the tracks."""

  def tracks(self) -> list[Track]:
    """Lists every music file, package by package. Near-duplicates share a split."""
    tracks = []
    for name, package in sorted(self._packages.items()):
      root = self._roots[name]
      files = list(self._found[name].files)
      groups = {where: group_of(name, where) for where in files}
      splits = assign_splits(list(groups.values()))
      credits = credits_of(package, root, files)
      self._tempi |= {f"{name}/{where}": row["bpm"] for where, row in credits.items() if row["bpm"]}
      for where in files:
        split = TEST_OTHER if package.test_only else splits[groups[where]]
        tags = self._embedded_tags(root / where)
        about = credits[where]
        # Some files carry a web address or "Unknown Artist" where the artist should be.
        artist = tags.get("artist", "") if package.trust_tags else ""
        artist = (
          "" if "unknown" in artist.lower() or "://" in artist or "www." in artist else artist
        )
        # From the most precise source to the least.
        author = about["author"] or artist or package.author
        # Tags of some packages are wrong throughout; `trust_tags` says which can be read.
        title = about["title"] or (tags.get("title", "") if package.trust_tags else "")
        tracks.append(
          Track(
            f"{name}/{where}",
            name,
            split,
            title or pathlib.Path(where).stem,
            author,
            about["licence"],
            f"Debian package {name}",
            root / where,
          )
        )
    return tracks

  def _embedded_tags(self, path: pathlib.Path) -> dict[str, str]:
    try:
      with soundfile.SoundFile(path) as file:
        return file.copy_metadata()
    except (soundfile.LibsndfileError, RuntimeError, UnicodeDecodeError):
      return {}  # the file's own trouble shows when it is decoded

  def load(self, track: Track) -> np.ndarray:
    """Decodes a file.

    Returns:
      Mono waveform at 24 kHz, float32 [samples].

    Raises:
      QuarantineError: The file is corrupt, or sampled under 22,050 Hz.
      UserError: The file cannot be read.
    """
    assert track.path is not None  # a track of this corpus is a file
    return load_audio(track.path, _MIN_RATE)

  def describe(self, track: Track, k: int, clip: np.ndarray) -> Description:
    """Writes captions from the package, the file's name and genre, and measurements of the clip.

    Args:
      track: The track.
      k: Number of the clip in the track.
      clip: Normalised waveform at 24 kHz, float32 [samples].
    """
    package = self._packages[track.package]
    tags = self._embedded_tags(track.path) if package.trust_tags and track.path else {}
    tempo = self._tempi.get(track.id, _USUAL_TEMPO)
    heard = descriptors.words(descriptors.measure(clip, SAMPLE_RATE, tempo))
    # Seeded by the clip's name: a rebuilt dataset has the same captions.
    seed = hashlib.sha256(f"{track.id}#{k}".encode()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    title = track.title if package.trust_tags else ""
    return describe_recording(rng, package, track.id, title, tags.get("genre", ""), heard)
