"""Workdir, bundle, encoded data and findings in a bucket. The bucket is one in memory."""

import json

from etils import epath
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem
import jax
import numpy as np
import pytest

from melody_jax import bundle, encode
from melody_jax.errors import UserError
from melody_jax.evaluation.finding import Finding, write
from melody_jax.evaluation.systems.measure import Measurer
from melody_jax.export import export
from melody_jax.input_pipeline.dataset import Dataset
from melody_jax.input_pipeline.shards import Feature, ShardWriter
from melody_jax.places import buckets
from melody_jax.places.bundles import locate
from melody_jax.training import loop
from melody_jax.training.metric_logger import MetricLogger
from melody_jax.training.profile_window import ProfileWindow
from tests.configs import load_config
from tests.evaluation.systems import songs
from tests.launch.test_launchers import sweeps
from tests.training.processes import write_token_dataset


class Bucket(MemoryFileSystem):
  """gs:// without Google: what epath reaches through fsspec, here in memory."""

  protocol = "gs"
  store, pseudo_dirs, written = {}, [""], []
  cachable = False

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix("gs:/"))

  def _open(self, path, mode="rb", **options):
    if "w" in mode:
      self.written.append(path)
    return super()._open(path, mode, **options)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)  # its own gs:// would be taken
  monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: Bucket())
  Bucket.store.clear()
  Bucket.written.clear()
  # A path that went through pathlib makes a folder "gs:" here.
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  yield Bucket
  assert not list((tmp_path / "here").iterdir()), "something was written beside the bucket"


def test_a_bundle_is_written_read_and_updated(bucket, tmp_path):
  path = bundle.path_of("gs://b/models", "lm")
  params, metadata = {"w": {"kernel": np.ones((2, 3), np.float32)}}, {"model_config": {"width": 3}}
  bundle.save(path, params, metadata, "float16")
  bundle.update(path, {"rvq": {"codebooks": np.zeros((1, 2), np.float32)}}, {"step": 4})
  read, found = bundle.load(path)
  assert found["step"] == 4 and found["model_config"] == {"width": 3}
  np.testing.assert_array_equal(read["w"]["kernel"], params["w"]["kernel"])
  # Copied, not saved again: safetensors orders the metadata of a file as it likes.
  local = bundle.path_of(tmp_path / "models", "lm")
  local.parent.mkdir()
  local.write_bytes(path.read_bytes())
  assert bundle.path_of(locate("gs://b/models"), "lm").is_file()
  assert bundle.digest("gs://b/models") == bundle.digest(tmp_path / "models")
  with pytest.raises(UserError, match="no checkpoint at gs://b/none/lm.safetensors"):
    bundle.load(bundle.path_of("gs://b/none", "lm"))


def test_a_run_is_exported_to_a_bucket(bucket, tmp_path):
  config = load_config("lm", "tiny")
  config.data.path = str(write_token_dataset(tmp_path / "data", records=2))
  config.train.update(steps=1, eval_every=0, batch_size=2)
  loop.train(config, tmp_path / "run")
  config.export.bundle = "gs://b/exported"
  export(config, str(tmp_path / "run"))
  assert bundle.load("gs://b/exported/lm.safetensors")[1]["step"] == 1


def test_encoding_writes_whole_shards_and_goes_on(bucket, tmp_path):
  writer = ShardWriter(tmp_path / "source", "train", 0, 1, {"audio": Feature(24_000, "int16")})
  for i in range(4):
    writer.write({"id": str(i)}, {"audio": np.full(100 + i, i)})
  writer.close()
  config = load_config("encode")
  config.update(source=str(tmp_path / "source"), out="gs://b/encoded", features="audio", shards=2)
  config.splits = "train"
  encode.main(config)
  names = [path.split("/")[-1] for path in bucket.written]
  shard = [
    "music-train.array_record-{}-of-00002",
    "train-{}-of-00002.npy",
    "train-{}-of-00002.json",
  ]
  first, second = ([name.format(f"{n:05d}") for name in shard] for n in range(2))
  assert names[:6] == first + second and names[-1] == "dataset_info.json"
  everything = list(bucket.written)
  # A shard without its note was cut off in the middle: it alone is written again.
  epath.Path("gs://b/encoded/1.0.0/shards/train-00001-of-00002.json").unlink()
  bucket.written.clear()
  encode.main(config)
  assert [path.split("/")[-1] for path in bucket.written][:3] == second
  assert not any("00000-of" in path for path in bucket.written)
  with pytest.raises(UserError, match="datasets to read cannot lie in a bucket"):
    Dataset("gs://b/encoded", "train")
  # Brought to a disk, they are what they were.
  for path in everything:
    target = tmp_path / "copy" / path.split("/encoded/")[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(epath.Path("gs:/" + path).read_bytes())
  dataset = Dataset(tmp_path / "copy", "train")
  assert [dataset.length(i, "audio") for i in range(4)] == [100, 101, 102, 103]


def test_findings_logs_and_profiles_land_in_the_bucket(bucket):
  paths = write(Finding("codec", {"snr": 1.0}, "| a |"), "gs://b/findings", {"seed": 0})
  assert [str(path) for path in paths] == ["gs://b/findings/codec.json", "gs://b/findings/codec.md"]
  assert json.loads(epath.Path("gs://b/findings/codec.json").read_text())["snr"] == 1.0
  config = load_config("lm", "tiny")
  logger = MetricLogger("gs://b/run", config)
  logger.evaluation(3, {"loss": 2.0}, 1.0)
  # There from the first evaluation on; its scalars too, as soon as TensorBoard's thread wrote them.
  (events,) = epath.Path("gs://b/run/tensorboard").iterdir()
  logger.train(4, {"loss": 1.0}, 2.0)
  logger.close()
  assert b"validation/loss" in events.read_bytes() and b"train/loss" in events.read_bytes()
  assert json.loads(epath.Path("gs://b/run/config.json").read_text())["task"] == "lm"
  window = ProfileWindow("1:1", "gs://b/run")
  window.before(1)
  assert window.after(1, jax.jit(lambda x: x + 1)(1.0))
  assert any("/b/run/profile/" in path and "xplane.pb" in path for path in bucket.store)


def test_what_was_measured_of_a_clip_is_kept_in_the_bucket(bucket, tmp_path):
  songs.write(tmp_path / "songs", 1)
  clip, bands = tmp_path / "songs" / "00.wav", songs.Bands()
  for _ in range(2):
    measurer = Measurer([bands], None, buckets.path_of("gs://b/scores/measured"), 60.0)
    found = measurer(clip, "00.wav")
  assert found.seconds == 3.0 and bands.calls == 1
  assert len(list(epath.Path("gs://b/scores/measured").iterdir())) == 2


def test_a_bucket_that_cannot_be_written_is_one_line(bucket, monkeypatch):
  def refuse(*args, **options):
    raise RuntimeError("403 Forbidden\nno such account")

  monkeypatch.setattr(bucket, "_open", refuse)
  with pytest.raises(UserError, match="cannot write gs://b/x: 403 Forbidden no such account"):
    buckets.write_all({"gs://b/x": b"1"})


def test_a_sweep_in_a_bucket_passes_over_finished_runs(bucket):
  sweep = sweeps.load("lm_learning_rate")
  everything = sweeps.pending(sweep, "gs://b/d", ["--config.data.path=x"])
  assert len(everything) == len(sweep.runs)
  where = epath.Path("gs://b/d/lm_learning_rate") / sweeps.run_name(sweep.runs[1])
  assert json.loads((where / "command.json").read_text()) == everything[1][1:]
  (where / "result.json").write_text('{"metrics": {"loss": 2.5}}')
  left = sweeps.pending(sweep, "gs://b/d", ["--config.data.path=x"])
  assert left == [run for run in everything if run != everything[1]]
  with pytest.raises(sweeps.SweepError, match="finished by another command"):
    sweeps.pending(sweep, "gs://b/d", ["--config.data.path=y"])
  assert len(sweeps.gather(sweep, "gs://b/d")) == len(sweep.runs) - 1
  table = epath.Path("gs://b/d/lm_learning_rate/results.md").read_text()
  assert "| 0.001 | 30 | 1 | 2.5 | - |" in table


def test_a_bucket_that_cannot_be_read_is_not_taken_for_an_empty_one(bucket, monkeypatch):
  def refused(self, path, *arguments, **options):
    raise PermissionError("403 no access")

  monkeypatch.setattr(bucket, "_open", refused)
  with pytest.raises(sweeps.SweepError, match="cannot read gs://b/d.*403"):
    sweeps.pending(sweeps.load("lm_learning_rate"), "gs://b/d", [])
