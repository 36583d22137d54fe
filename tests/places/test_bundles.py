"""Bundles by directory, by .zip, and by address: fetched once, checked, whole or not at all."""

import hashlib
import http.server
import threading
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from melody_jax import Melody
from melody_jax.errors import UserError
from melody_jax.places import bundles


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
  """A .zip with two small models in a folder, and a page that is no model."""
  where = tmp_path_factory.mktemp("zip")
  with zipfile.ZipFile(where / "small.zip", "w") as out:
    for name in ("vae", "lm"):
      save_file({"w": np.arange(2000, dtype=np.float32)}, where / name)
      out.write(where / name, f"../evil/{name}.safetensors")
    out.writestr("small/README.md", "card")
  return where / "small.zip"


@pytest.fixture
def served(archive, monkeypatch, tmp_path):
  """A server of the archive on this machine: (address of its root, list of requests so far)."""
  asked = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
      super().__init__(*arguments, directory=str(archive.parent))

    def do_GET(self):
      asked.append(self.path)
      super().do_GET()

    def log_message(self, *arguments):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  yield f"http://127.0.0.1:{server.server_port}", asked
  server.shutdown()
  server.server_close()


def test_an_address_is_fetched_once_and_checked(served, archive, tmp_path):
  address, asked = served
  digest = hashlib.sha256(archive.read_bytes()).hexdigest()
  for given in (f"{address}/small.zip", f"{address}/small.zip#sha256={digest}"):
    first = bundles.locate(given)
    assert sorted(p.name for p in first.iterdir()) == ["lm.safetensors", "vae.safetensors"]
    before = len(asked)
    assert bundles.locate(given) == first and len(asked) == before
  assert not (tmp_path / "evil").exists()
  assert not list((tmp_path / "cache").rglob(".melody-*"))


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("none.zip", "cannot fetch http.*status 404"),
    ("small.zip#sha256=" + "0" * 64, "another SHA-256"),
    ("small.zip#md5=1", "must be sha256="),
    ("vae", "no .zip of a bundle"),
  ],
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(served, path, message, tmp_path):
  with pytest.raises(UserError, match=message) as error:
    bundles.locate(f"{served[0]}/{path}")
  assert "\n" not in str(error.value).strip()
  cache = tmp_path / "cache" / "melody_jax" / "bundles"
  assert not cache.exists() or not list(cache.iterdir())


def test_a_torn_download_leaves_nothing(served, archive, tmp_path):
  (archive.parent / "torn.zip").write_bytes(archive.read_bytes()[:-300])
  with pytest.raises(UserError, match="damaged"):
    bundles.locate(f"{served[0]}/torn.zip")
  # One byte of a model's file is another, all else is whole.
  content = bytearray(archive.read_bytes())
  content[2000] ^= 1
  (archive.parent / "flipped.zip").write_bytes(content)
  with pytest.raises(UserError, match="damaged"):
    bundles.locate(f"{served[0]}/flipped.zip")
  assert not list((tmp_path / "cache" / "melody_jax" / "bundles").iterdir())


def test_no_network_is_one_line(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  with pytest.raises(UserError, match="cannot fetch http://127.0.0.1:9/nano.zip"):
    bundles.locate("http://127.0.0.1:9/nano.zip")


def test_a_zip_on_the_disk_and_a_home(served, archive, monkeypatch):
  monkeypatch.setenv("HOME", str(archive.parent))
  assert len(list(bundles.locate("~/small.zip").iterdir())) == 2
  assert bundles.locate("~") == archive.parent


def test_a_cache_that_cannot_be_written(archive, monkeypatch, tmp_path):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
    bundles.locate(archive)


def test_the_shipped_checkpoint_is_found_or_told_where_to_get(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  for place in ("CHECKOUT", "PACKAGE"):
    monkeypatch.setattr(bundles, place, tmp_path / "nowhere")
  with pytest.raises(UserError, match="clone of the repository"):
    Melody.load(bundles.SHIPPED)
  (tmp_path / "clone" / bundles.SHIPPED).mkdir(parents=True)
  monkeypatch.setattr(bundles, "CHECKOUT", tmp_path / "clone")
  assert bundles.locate(bundles.SHIPPED) == tmp_path / "clone" / bundles.SHIPPED
  with pytest.raises(UserError, match="no checkpoint at elsewhere"):
    Melody.load("elsewhere")
