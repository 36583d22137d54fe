"""Bundles of trained models: a directory with one safetensors file per model.

The directory may be one of a bucket (gs://...).

A file describes itself. It holds the parameters of a model under keys like "a/b/c", and metadata as
strings: the task, the model config as JSON, and the step. `checkpoints/nano` is such a directory.
"""

from collections.abc import Callable
import hashlib
import json
import os
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.output_files import check_new_folder, check_outputs, write_error
from melody_jax.places import buckets
from melody_jax.task import TASKS


def path_of(bundle: str | os.PathLike, model: str) -> Any:
  """The file of `model`, a name of `task.TASKS`, in the directory `bundle`: a path."""
  return buckets.path_of(bundle) / f"{model}.safetensors"


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
  """Flattens a nested dict of arrays to {"a/b/c": array}."""
  flat: dict[str, np.ndarray] = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f"{prefix}{key}/"))
    else:
      flat[f"{prefix}{key}"] = np.asarray(value)
  return flat


def unflatten(flat: dict[str, np.ndarray]) -> dict[str, Any]:
  """Nests {"a/b/c": array} to a dict of dicts of arrays; undoes `flatten`."""
  tree: dict[str, Any] = {}
  for key, value in flat.items():
    # Names are paths, since safetensors knows no trees.
    *parents, leaf = key.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


def save(
  path: str | os.PathLike,
  params: dict[str, Any],
  metadata: dict[str, Any],
  dtype: str | None = None,
) -> None:
  """Writes one model's file.

  Args:
    path: File to write; its directory is made where it is missing.
    params: Nested dict of arrays, without boxes of logical axis names.
    metadata: Values that JSON can hold; each is stored as a string of JSON.
    dtype: Dtype in which floating arrays are stored, "float16" or "float32"; None keeps theirs.

  Raises:
    UserError: if the file cannot be written.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import save_file

  flat = flatten(params)
  if dtype:
    flat = {
      k: v.astype(dtype) if np.issubdtype(v.dtype, np.floating) else v for k, v in flat.items()
    }
  # safetensors writes the memory as it lies: a transposed view would be stored wrongly.
  flat = {k: np.ascontiguousarray(v) for k, v in flat.items()}
  texts = {k: json.dumps(v) for k, v in metadata.items()}
  target = buckets.path_of(path)
  # Through a file, to a bucket too: the bytes of a large model would be in memory twice.
  with buckets.writable(target.parent) as folder:
    temporary = folder / f".{target.name}.tmp-{os.getpid()}"
    try:
      folder.mkdir(parents=True, exist_ok=True)
      # The umask decides who may read it, as elsewhere: safetensors leaves it to the owner alone.
      temporary.touch()
      mode = temporary.stat().st_mode
      save_file(flat, temporary, texts)
      temporary.chmod(mode)
      if buckets.in_bucket(path):
        buckets.write_all({target: temporary})
      else:
        # Renamed when complete: a killed process leaves the old file as it was.
        os.replace(temporary, target)
    except OSError as e:
      raise write_error(path, e) from e
    except SafetensorError as e:  # its text names the system's error
      raise UserError(f"cannot write {path}: {e}") from e
    finally:
      temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads one model's file.

  Returns:
    (nested dict of arrays, metadata). Floating arrays are float32, however they were stored.

  Raises:
    UserError: if the file is missing, truncated, or not a model of melody_jax.
  """
  from safetensors import SafetensorError, safe_open

  source = buckets.path_of(path)
  if not source.is_file():
    raise UserError(
      f"no checkpoint at {path}: check the directory given, or train one (README, 'Train')"
    )
  try:
    with buckets.readable(source) as file, safe_open(file, framework="numpy") as f:
      metadata = {k: json.loads(v) for k, v in (f.metadata() or {}).items()}
      flat = {k: f.get_tensor(k) for k in f.keys()}
  except (SafetensorError, OSError, ValueError) as e:
    raise UserError(
      f"checkpoint {path} is truncated or damaged ({e}): fetch or export it again"
    ) from e
  if "model_config" not in metadata:
    raise UserError(
      f"{path} is a safetensors file but not one of melody_jax: it has no model_config"
    )
  flat = {
    k: v.astype(np.float32) if np.issubdtype(v.dtype, np.floating) else v for k, v in flat.items()
  }
  return unflatten(flat), metadata


def is_foreign(path: str | os.PathLike) -> bool:
  """Whether a file is a whole safetensors file that no melody_jax wrote."""
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(path, framework="numpy") as f:
      return "model_config" not in (f.metadata() or {})
  except (SafetensorError, OSError):
    return False


def load_model(
  bundle: str | os.PathLike, model: str, config_class: type | Callable[[Any], Any]
) -> tuple[Any, dict[str, Any]]:
  """Reads one model of a bundle.

  Args:
    bundle: Directory of the bundle.
    model: One of MODELS.
    config_class: Dataclass of the model's config, or a function that makes the config of the
      mapping that the file has, where the file decides which dataclass it is.

  Returns:
    (the config, nested dict of arrays).

  Raises:
    UserError: as `load`, and if the model has settings that this version does not know.
  """
  from melody_jax.models.layers import config_from

  path = path_of(bundle, model)
  params, metadata = load(path)
  try:
    values = metadata["model_config"]
    if isinstance(config_class, type):
      return config_from(config_class, values), params
    return config_class(values), params
  except UserError as e:
    raise UserError(
      f"{path} was made by another version of melody_jax ({e}): export it again"
    ) from e


def require(bundle: str | os.PathLike, model: str, params: dict[str, Any], *keys: str) -> Any:
  """Gets an entry that `melody_jax.fit` adds to a model's parameters.

  Args:
    bundle: Directory of the bundle, for the message.
    model: Name of the model, for the message.
    params: Nested dict of arrays.
    keys: Path of the entry.

  Raises:
    UserError: if it has not been fitted yet.
  """
  node: Any = params
  for key in keys:
    if key not in node:
      raise UserError(
        f"{path_of(bundle, model)} lacks {'/'.join(keys)}: fit it with python -m melody_jax.fit"
      )
    node = node[key]
  return node


def update(
  path: str | os.PathLike,
  params: dict[str, Any],
  metadata: dict[str, Any],
  dtype: str | None = None,
) -> None:
  """Adds or replaces parameters and metadata of an existing file, such as k-means centres.

  Args:
    path: File of a model.
    params: Nested dict of arrays to add or replace.
    metadata: Metadata to add or replace.
    dtype: Dtype in which floating arrays are stored; None keeps that of the file.

  Raises:
    UserError: as `load`.
  """
  old, old_metadata = load(path)
  # Entry by entry: a new fit replaces its own arrays and leaves those of other fits.
  merged = flatten(old) | flatten(params)
  # `load` gave float32: without this a float16 file would double in size.
  keep = dtype or old_metadata.get("dtype")
  save(path, unflatten(merged), old_metadata | metadata, keep)


def params_digest(config: Any, params: dict[str, Any]) -> str:
  """SHA-256 over a model's config (a dataclass) and parameters, however its file was written."""
  sha = hashlib.sha256(repr(config).encode())
  for name, value in sorted(flatten(params).items()):
    array = np.ascontiguousarray(value)
    sha.update(f"{name} {array.dtype} {array.shape}".encode())
    sha.update(array.tobytes())
  return sha.hexdigest()


def check_writable(bundle: str | os.PathLike, model: str) -> None:
  """Checks before the work that one model's file can be written after it.

  Raises:
    UserError: if the directory cannot be made or written, or the file is not of melody_jax.
  """
  path = path_of(bundle, model)
  if buckets.in_bucket(bundle):
    return  # it has no directories to look at
  check_new_folder(path.parent)
  if path.parent.is_dir():
    # Streams are safetensors files, too: neither takes the place of the other.
    check_outputs([path], marks=('"model_config"',))


def digest(bundle: str | os.PathLike) -> str:
  """SHA-256 over the bundle's model files, in the order of `task.TASKS` (those that exist)."""
  sha = hashlib.sha256()
  for model in TASKS:
    if path_of(bundle, model).is_file():
      with path_of(bundle, model).open("rb") as f:
        # In blocks, so that a large file is never held in memory.
        for block in iter(lambda: f.read(1 << 20), b""):
          sha.update(block)
  return sha.hexdigest()
