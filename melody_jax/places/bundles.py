"""Bundles by directory, .zip file or address; what is fetched is kept in the user's cache."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any
import zipfile

from melody_jax.errors import UserError
from melody_jax.host.cache_folders import own_cache
from melody_jax.places import buckets
from melody_jax.places.paths import CHECKOUT, PACKAGE, expand
from melody_jax.progress import print_progress

SHIPPED = "checkpoints/nano"  # in the checkout; a wheel goes without its 58 MB


def locate(bundle: str | os.PathLike) -> Any:
  """The directory of a bundle.

  Args:
    bundle: A directory, perhaps of a bucket (gs://...); a .zip file of the models' files; or the
      address of one (http, https), perhaps with "#sha256=..." at its end. An address is fetched
      once.

  Returns:
    The directory, a path. It may not exist where the text is just a path: what reads it says so.

  Raises:
    UserError: if the archive cannot be had or is damaged, or the shipped checkpoint is not here.
  """
  text = os.fspath(bundle)
  if re.match(r"https?://", text):
    return _fetched(text)
  if buckets.in_bucket(text):
    return buckets.path_of(text)
  path = pathlib.Path(expand(text))
  if path.suffix.lower() == ".zip" and path.is_file():
    with open(path, "rb") as f:
      digest = hashlib.file_digest(f, "sha256").hexdigest()
    return _unpacked(path.stem, digest, lambda folder: path)
  if path.exists() or text != SHIPPED:
    return path
  for place in (CHECKOUT, PACKAGE):
    if (place / SHIPPED).is_dir():
      return place / SHIPPED
  raise UserError(
    f"no checkpoint at {SHIPPED} (looked in {pathlib.Path.cwd()} and beside the program; pip does"
    " not bring it): give the directory of a clone of the repository, or the address of a .zip of"
    " it, as --config.checkpoint=DIR"
  )


def _fetched(address: str) -> pathlib.Path:
  """The bundle at an address, from the cache or, the first time, from there."""
  address, _, expected = address.partition("#")
  if expected and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", expected):
    raise UserError(f"{address}#{expected}: what follows # must be sha256= and 64 digits")

  def download(folder: pathlib.Path) -> pathlib.Path:
    import pooch  # late: with its dependencies it takes a while
    import requests

    pooch.get_logger().setLevel("ERROR")
    print_progress(f"fetching {address}")
    known = expected.replace("=", ":").lower() or None
    try:
      got = pooch.retrieve(
        address, known, "bundle.zip", folder, downloader=pooch.HTTPDownloader(timeout=60)
      )
    except requests.RequestException as error:
      raise UserError(f"cannot fetch {address}: {_reason(error)}") from error
    except ValueError as error:  # of another digest
      raise UserError(f"{address} has another SHA-256 than {expected}: fetch another") from error
    return pathlib.Path(got)

  name = pathlib.PurePosixPath(address).stem or "bundle"
  key = hashlib.sha256(f"{address}#{expected.lower()}".encode()).hexdigest()
  return _unpacked(name, key, download)


def _reason(error: Exception) -> str:
  """Why a request failed, as one short line."""
  response = getattr(error, "response", None)
  if response is not None:
    return f"status {response.status_code} {response.reason}"
  return f"{type(error).__name__}: is the address right, and is there a network?"


def _unpacked(name: str, key: str, archive_in) -> pathlib.Path:
  """The unpacked archive in the cache: made under another name and renamed when whole.

  Args:
    name: Name for people.
    key: Digest that tells archives apart.
    archive_in: Function from a temporary folder to the .zip file, called where it is needed.
  """
  target = own_cache() / "bundles" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{key[:16]}"
  if target.is_dir():
    return target
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=".melody-", dir=target.parent))
  except OSError as error:
    raise UserError(
      f"cannot write the cache {target.parent} ({error.strerror}): set XDG_CACHE_HOME to a"
      " directory that can be written"
    ) from error
  try:
    files = work / "files"
    files.mkdir()
    _extract(archive_in(work), files)
    # Another process may have been faster; its files are the same.
    with contextlib.suppress(OSError):
      os.replace(files, target)
    if not target.is_dir():
      raise UserError(f"cannot write the cache {target}: set XDG_CACHE_HOME to another directory")
  except OSError as error:
    raise UserError(f"cannot write the cache {target}: {error.strerror or error}") from error
  finally:
    shutil.rmtree(work, ignore_errors=True)
  print_progress(f"unpacked into {target}")
  return target


def _extract(archive: pathlib.Path, folder: pathlib.Path) -> None:
  """Unpacks the models' files, and checks each.

  Only the last parts of their names are used, so that no file lands elsewhere.

  Raises:
    UserError: if the archive is damaged, or no bundle.
  """
  from safetensors import SafetensorError, safe_open

  try:
    with zipfile.ZipFile(archive) as opened:
      members = [m for m in opened.infolist() if m.filename.endswith(".safetensors")]
      names = [pathlib.PurePosixPath(m.filename).name for m in members]
      if not names or len(set(names)) < len(names):
        raise UserError(
          f"{archive.name} holds {len(names)} models' files (*.safetensors): it must be the .zip of"
          " one bundle"
        )
      for member, name in zip(members, names, strict=True):
        # Read whole: the archive's own check of each file comes at its end.
        with opened.open(member) as source, open(folder / name, "wb") as out:
          shutil.copyfileobj(source, out, 1 << 20)
        with safe_open(folder / name, framework="numpy") as f:
          f.metadata()
  except (zipfile.BadZipFile, SafetensorError, EOFError, NotImplementedError) as error:
    raise UserError(f"{archive.name} is no .zip of a bundle, or damaged ({error})") from error
