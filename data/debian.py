"""Fetches Debian packages and unpacks them, without root and without installing anything."""

from collections.abc import Sequence
import pathlib
import shutil
import subprocess
import tempfile
import zipfile

from melody_jax.errors import UserError


def _run(command: list[str], cwd: pathlib.Path, hint: str) -> None:
  try:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
  except FileNotFoundError as error:
    raise UserError(
      f"{command[0]} is not installed: this builder needs Debian or Ubuntu"
    ) from error
  if result.returncode:
    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
    raise UserError(f"{' '.join(command)} failed: {last} ({hint})")


def _unpack_zips(root: pathlib.Path) -> None:
  """Unpacks the .pk3 archives (zips) of a package into its `pk3` folder."""
  for archive in sorted(root.rglob("*.pk3")):
    if not archive.is_symlink():
      with zipfile.ZipFile(archive) as pk3:
        pk3.extractall(root / "pk3")


def fetch_packages(packages: Sequence[str], folder: pathlib.Path) -> list[pathlib.Path]:
  """Makes `folder`/<package> hold the unpacked files of each package; returns those folders.

  A package that is there already is not fetched again. Unpacking happens beside it under a
  temporary name, so an interrupted fetch leaves nothing that looks complete.

  Raises:
    UserError: apt-get or dpkg-deb is missing or failed (no network, unknown package, full disk).
  """
  roots = []
  for package in packages:
    root = folder / package
    roots.append(root)
    if root.is_dir():
      continue
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{package}-") as scratch:
      work = pathlib.Path(scratch)
      _run(["apt-get", "download", package], work, "try apt-get update; is the network up?")
      (deb,) = work.glob("*.deb")
      _run(["dpkg-deb", "-x", deb.name, "unpacked"], work, "is the disk full?")
      _unpack_zips(work / "unpacked")
      shutil.move(work / "unpacked", root)
  return roots
