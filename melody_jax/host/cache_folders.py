"""Folders for caches, also for a user whose home cannot be written or does not exist.

numba, which librosa uses, refuses to work where it cannot keep what it compiles; matplotlib
complains. Both are sent to a folder of ours before they are imported. A container that runs under a
number without a name (`docker run -u 1234`) is the usual case.
"""

from collections.abc import Iterator
import contextlib
import importlib.util
import os
import pathlib
import stat
import tempfile

from melody_jax.errors import UserError

# Variable that names a library's cache -> its folder below ours.
_LIBRARIES = {"NUMBA_CACHE_DIR": "numba", "MPLCONFIGDIR": "matplotlib"}
# A full disk takes an empty file. What numba keeps of a function is about this long.
_TRIAL_BYTES = 1 << 14


def home() -> pathlib.Path | None:
  """The user's home, or None where neither $HOME nor the list of users knows one."""
  try:
    return pathlib.Path.home()
  except RuntimeError:
    return None


def user_cache() -> pathlib.Path | None:
  """The user's cache folder, $XDG_CACHE_HOME or ~/.cache; None where it cannot be written."""
  given, at_home = os.environ.get("XDG_CACHE_HOME"), home()
  folder = pathlib.Path(given) if given else at_home and at_home / ".cache"
  return folder if folder and is_writable(folder) else None


def own_cache() -> pathlib.Path:
  """Our folder for what can be fetched or made again: $XDG_CACHE_HOME/melody_jax, or in ~/.cache.

  Raises:
    UserError: if the user has no home and $XDG_CACHE_HOME is not set.
  """
  given, at_home = os.environ.get("XDG_CACHE_HOME"), home()
  if given:
    return pathlib.Path(given) / "melody_jax"
  if at_home is None:
    raise UserError("no home to keep fetched files in: set XDG_CACHE_HOME to a folder")
  return at_home / ".cache" / "melody_jax"


def is_writable(folder: str | os.PathLike) -> bool:
  """Whether files can be written into a folder, or into the one in which it would be made."""
  existing = pathlib.Path(os.path.abspath(folder))
  try:
    while not existing.exists():
      existing = existing.parent
    # Tried, not asked for: permissions say nothing of full disks and read-only mounts.
    with tempfile.TemporaryFile(dir=existing) as file:
      file.write(bytes(_TRIAL_BYTES))
      file.flush()
    return True
  except OSError:
    return False


def _fallbacks() -> Iterator[pathlib.Path]:
  """Folders of our own outside the home, best first."""
  with contextlib.suppress(OSError):  # raised where no folder of temporary files can be written
    yield pathlib.Path(tempfile.gettempdir())
  yield pathlib.Path("/dev/shm")  # in memory; writable in most containers whose disk is not


def _private(parent: pathlib.Path) -> pathlib.Path | None:
  """A folder in `parent` that is ours alone; None where it cannot be had.

  numba runs what it finds in its cache. A folder that somebody else made or may write is not used.
  """
  folder = parent / f"melody_jax-{os.getuid()}"
  try:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
  except OSError:
    return None
  ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
  return folder if ours and is_writable(folder) else None


def prepare() -> None:
  """Names cache folders in the environment where those of the libraries cannot be written.

  Runs when the package is imported, so before numba and matplotlib. A folder that the user
  named and that can be written stays as it is.
  """
  if not hasattr(os, "getuid"):
    return  # not a system on which homes are missing
  named = {name: os.environ.get(name) for name in _LIBRARIES}
  lacking = {name for name, folder in named.items() if folder and not is_writable(folder)}
  # The libraries' own places are below the home. A home that works needs nothing from us.
  if not all(named.values()) and user_cache() is None:
    lacking |= {name for name, folder in named.items() if not folder}
  if home() is None and not os.environ.get("XDG_CACHE_HOME"):
    lacking.add("XDG_CACHE_HOME")  # librosa asks for it when imported, and fails
  folder = next(filter(None, map(_private, _fallbacks())), None) if lacking else None
  if folder:
    os.environ.update({name: str(folder / _LIBRARIES.get(name, "")) for name in lacking})


def check() -> None:
  """Refuses a machine on which numba has no folder to write, before any work is done.

  numba would end in a traceback at the first sound that is read or written.

  Raises:
    UserError: naming the variables by which a folder can be given.
  """
  if not hasattr(os, "getuid"):
    return
  given = os.environ.get("NUMBA_CACHE_DIR")
  if (given and is_writable(given)) or user_cache() is not None:
    return
  librosa = importlib.util.find_spec("librosa")  # finds it without running it
  beside = list(librosa.submodule_search_locations or ()) if librosa else []
  if beside and not is_writable(beside[0]):  # numba's last resort
    raise UserError(
      "no folder for caches can be written, or all are full: the home, $TMPDIR and /dev/shm; set"
      " NUMBA_CACHE_DIR to one that can"
    )
