"""Shipped weights: one self-describing safetensors file per model in one directory.

A file holds a model's parameters, flattened to "a/b/c" keys, and string metadata: the
task, the model config as JSON and the step. `checkpoints/nano` is such a directory.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from melody_jax.errors import UserError
from melody_jax.task import TASKS


def path_of(bundle: str | os.PathLike, model: str) -> pathlib.Path:
  """The file of `model`, a name of `task.TASKS`, in the directory `bundle`."""
  return pathlib.Path(bundle) / f"{model}.safetensors"


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
  """Nested dict of arrays -> {"a/b/c": array}."""
  flat: dict[str, np.ndarray] = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f"{prefix}{key}/"))
    else:
      flat[f"{prefix}{key}"] = np.asarray(value)
  return flat


def unflatten(flat: dict[str, np.ndarray]) -> dict[str, Any]:
  """{"a/b/c": array} -> nested dict of arrays."""
  tree: dict[str, Any] = {}
  for key, value in flat.items():
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
  """Writes one model's file, under a temporary name first.

  Args:
    path: the file to write.
    params: nested dict of arrays (no logical-axis boxes).
    metadata: JSON-serialisable values, stored as strings of JSON.
    dtype: floating arrays are stored as this ("float16", "float32"); None keeps theirs.
  """
  from safetensors.numpy import save_file

  flat = flatten(params)
  if dtype:
    flat = {
      k: v.astype(dtype) if np.issubdtype(v.dtype, np.floating) else v for k, v in flat.items()
    }
  flat = {k: np.ascontiguousarray(v) for k, v in flat.items()}
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
  try:
    save_file(flat, temporary, {k: json.dumps(v) for k, v in metadata.items()})
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads one model's file -> (nested dict of float32 / int arrays, metadata).

  Raises:
    UserError: if the file is missing, truncated or not a file of this kind.
  """
  from safetensors import SafetensorError, safe_open

  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f"no checkpoint at {path}: check the directory given, or train one (README, 'Train')"
    )
  try:
    with safe_open(path, framework="numpy") as f:
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


def load_model(
  bundle: str | os.PathLike, model: str, config_class: type
) -> tuple[Any, dict[str, Any]]:
  """Reads one model of a bundle -> (its `config_class`, parameters).

  Raises:
    UserError: as `load`; and if the file's model has settings that this version does not know.
  """
  from melody_jax.models.layers import config_from

  path = path_of(bundle, model)
  params, metadata = load(path)
  try:
    return config_from(config_class, metadata["model_config"]), params
  except (TypeError, ValueError) as e:
    raise UserError(
      f"{path} was made by another version of melody_jax ({e}): export it again"
    ) from e


def require(bundle: str | os.PathLike, model: str, params: dict[str, Any], *keys: str) -> Any:
  """Takes what `melody_jax.fit` adds out of a model's parameters.

  Raises:
    UserError: if it was not fitted yet.
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
  """Adds or replaces parameters and metadata of an existing file (k-means centres, codebooks)."""
  old, old_metadata = load(path)
  merged = flatten(old) | flatten(params)
  keep = dtype or old_metadata.get("dtype")
  save(path, unflatten(merged), old_metadata | metadata, keep)


def digest(bundle: str | os.PathLike) -> str:
  """SHA-256 over the bundle's model files, in the order of `task.TASKS` (those that exist)."""
  sha = hashlib.sha256()
  for model in TASKS:
    if path_of(bundle, model).is_file():
      with open(path_of(bundle, model), "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
          sha.update(block)
  return sha.hexdigest()
