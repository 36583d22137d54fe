"""Bundles: round trip, partial update, and damage named in one line."""

import dataclasses
import os

import numpy as np
import pytest

from melody_jax import bundle
from melody_jax.errors import UserError

PARAMS = {
  "a": {"kernel": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)},
  "ids": np.arange(3, dtype=np.int32),
}


def test_round_trip_and_update(tmp_path):
  path = bundle.path_of(tmp_path, "vae")
  bundle.save(
    path, PARAMS, {"model_config": {"width": 2}, "step": 7, "dtype": "float16"}, "float16"
  )
  bundle.update(path, {"rvq": {"codebooks": np.ones(2, np.float32)}}, {"report": {"x": 1.5}})
  params, metadata = bundle.load(path)
  np.testing.assert_allclose(params["a"]["kernel"], PARAMS["a"]["kernel"], atol=1e-3)
  assert params["a"]["kernel"].dtype == np.float32
  np.testing.assert_array_equal(params["ids"], PARAMS["ids"])
  assert metadata["step"] == 7 and metadata["report"] == {"x": 1.5}
  assert [p.name for p in tmp_path.iterdir()] == ["vae.safetensors"], "no temporary file is left"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_who_may_read_a_file_is_what_the_umask_says(tmp_path, umask):
  path = bundle.path_of(tmp_path, "lm")
  before = os.umask(umask)
  try:
    bundle.save(path, PARAMS, {"step": 1})
  finally:
    os.umask(before)
  assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_missing_truncated_and_foreign_files(tmp_path):
  path = bundle.path_of(tmp_path, "lm")
  with pytest.raises(UserError, match="no checkpoint at"):
    bundle.load(path)
  bundle.save(path, PARAMS, {"step": 1})
  with pytest.raises(UserError, match="not one of melody_jax"):
    bundle.load(path)
  whole = path.read_bytes()
  for cut in (len(whole) - 5, 20, 0):
    path.write_bytes(whole[:cut])
    with pytest.raises(UserError, match="truncated or damaged"):
      bundle.load(path)


def test_settings_of_another_version_are_named(tmp_path):
  @dataclasses.dataclass(frozen=True)
  class Config:
    width: int

  metadata = {"model_config": {"width": 2}}
  bundle.save(bundle.path_of(tmp_path, "lm"), PARAMS, metadata)
  assert bundle.load_model(tmp_path, "lm", Config)[0] == Config(2)
  for settings in ({"width": 2, "depth": 3}, {}):
    bundle.save(bundle.path_of(tmp_path, "lm"), PARAMS, {"model_config": settings})
    with pytest.raises(UserError, match="another version of melody_jax"):
      bundle.load_model(tmp_path, "lm", Config)


def test_digest_follows_content(tmp_path):
  bundle.save(bundle.path_of(tmp_path, "lm"), PARAMS, {"step": 1})
  first = bundle.digest(tmp_path)
  assert bundle.digest(tmp_path) == first
  bundle.save(bundle.path_of(tmp_path, "lm"), PARAMS, {"step": 2})
  assert bundle.digest(tmp_path) != first
