"""What builders share: shards, ledger, fetching, flags."""

import json
import zipfile

import pytest

from data import debian
from data.build import build_dataset, common_arguments, default_data_dir, usual_jobs
from data.captions import article, join_words, tempo_word, tidy
from data.music_folder.corpus import FolderCorpus
from melody_jax.errors import UserError
from melody_jax.input_pipeline.dataset import Dataset


def test_shards_hold_every_record_once(sounds, tmp_path):
  one = build_dataset(FolderCorpus(sounds), tmp_path / "one")
  two = build_dataset(FolderCorpus(sounds), tmp_path / "two", jobs=2)
  assert one.report() == two.report()
  for split in ("train", "validation"):
    ids = {r["id"] for r, _ in Dataset(tmp_path / "one", split)}
    assert ids == {r["id"] for r, _ in Dataset(tmp_path / "two", split)}
  manifests = [
    json.loads(line)["track"]
    for line in (tmp_path / "two" / "manifest.jsonl").read_text().splitlines()
  ]
  assert manifests == sorted(manifests) and len(manifests) == 4


def test_nothing_to_build_is_an_error(sounds, tmp_path):
  with pytest.raises(UserError, match="no track found for licences=free"):
    build_dataset(FolderCorpus(sounds, licence="unknown"), tmp_path, licences="free")


def test_packages_are_fetched_once_and_archives_unpacked(tmp_path, monkeypatch):
  commands = []

  def fake_run(command, cwd, hint):
    commands.append(command[0])
    if command[0] == "apt-get":
      (cwd / f"{command[-1]}_1_all.deb").write_bytes(b"")
    else:
      target = cwd / "unpacked" / "usr" / "share"
      target.mkdir(parents=True)
      with zipfile.ZipFile(target / "music.pk3", "w") as archive:
        archive.writestr("music/a.ogg", b"x")

  monkeypatch.setattr(debian, "_run", fake_run)
  (root,) = debian.fetch_packages(["some-music"], tmp_path / "debian")
  assert (root / "pk3" / "music" / "a.ogg").read_bytes() == b"x"
  assert debian.fetch_packages(["some-music"], tmp_path / "debian") == [root]
  assert commands == ["apt-get", "dpkg-deb"]
  assert [path.name for path in (tmp_path / "debian").iterdir()] == ["some-music"]


def test_a_failed_fetch_says_what_to_do(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="false-command is not installed"):
    debian._run(["false-command"], tmp_path, "hint")
  with pytest.raises(UserError, match=r"exit 3 failed.*\(hint\)"):
    debian._run(["sh", "-c", "exit 3"], tmp_path, "hint")


def test_data_goes_outside_the_checkout_unless_told(monkeypatch, tmp_path):
  monkeypatch.delenv("MELODY_DATA", raising=False)
  assert default_data_dir().name == "melody_data"
  monkeypatch.setenv("MELODY_DATA", str(tmp_path))
  assert common_arguments("x").parse_args([]).data_dir == tmp_path


@pytest.mark.parametrize(("tempo", "word"), [
    (55, "very slow"), (80, "slow"), (100, "mid-tempo"), (120, "upbeat"), (150, "fast"),
    (200, "very fast"),
])  # fmt: skip
def test_tempo_words(tempo, word):
  assert tempo_word(tempo) == word


def test_phrases():
  assert article("upbeat waltz") == "an upbeat waltz" and article("8-beat") == "an 8-beat"
  assert article("slow waltz") == "a slow waltz" and article("euphoric tune") == "a euphoric tune"
  assert join_words(["a", "b", "c"]) == "a, b and c" and join_words([]) == ""
  assert tidy(" two  words , here", full_stop=True) == "Two words, here."


def test_a_process_a_core_but_none_for_a_handful_of_tracks(monkeypatch):
  monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
  assert [usual_jobs(n) for n in (0, 1, 15, 16, 31, 32, 1000)] == [1, 1, 1, 2, 3, 4, 4]
