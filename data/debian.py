"""Downloads Debian packages and unpacks them. Needs no root rights and installs nothing."""

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
  """Unpacks the .pk3 archives of a package (zip files of games) into its `pk3` folder."""
  for archive in sorted(root.rglob("*.pk3")):
    if not archive.is_symlink():
      with zipfile.ZipFile(archive) as pk3:
        pk3.extractall(root / "pk3")


def fetch_packages(packages: Sequence[str], folder: pathlib.Path) -> list[pathlib.Path]:
  """Unpacks each package into `folder`/<package>. A package that is there is not fetched again.

  Args:
    packages: Names of Debian packages.
    folder: Directory of the unpacked packages; made if missing.

  Returns:
    The directory of each package, in the order of `packages`.

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
    # Unpacked beside its place and moved at the end: a broken download never looks complete.
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{package}-") as scratch:
      work = pathlib.Path(scratch)
      _run(["apt-get", "download", package], work, "try apt-get update; is the network up?")
      # apt-get chooses the file's name, which holds the version.
      (deb,) = work.glob("*.deb")
      # dpkg-deb only unpacks; dpkg itself would install and ask for root.
      _run(["dpkg-deb", "-x", deb.name, "unpacked"], work, "is the disk full?")
      _unpack_zips(work / "unpacked")
      shutil.move(work / "unpacked", root)
  return roots
