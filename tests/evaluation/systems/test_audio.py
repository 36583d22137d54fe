"""The comparison from files to files: odd inputs, resuming, copies, prompts."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile

from melody_jax.errors import UserError
from melody_jax.evaluate import evaluate
from melody_jax.evaluation.basic_pitch import Posteriors
from melody_jax.evaluation.embeddings import choice
from melody_jax.evaluation.systems import audio, measure
from tests.configs import load_config
from tests.evaluation.systems.songs import RATE, Bands, song, write


@pytest.fixture(scope="module")
def music(tmp_path_factory):
  """Ten songs, and ten others."""
  root = tmp_path_factory.mktemp("music")
  write(root / "generated", 10)
  write(root / "reference", 10, first=20)
  return root


@pytest.fixture
def bands(monkeypatch):
  found = Bands()
  monkeypatch.setattr(choice, "load", lambda words, bundle: [found])
  return found


def _config(generated, reference, out, **audio):
  c = load_config("evaluate", "audio")
  c.generated, c.reference, c.out = str(generated), str(reference), str(out)
  c.bundle = "no bundle is needed"
  c.audio.update({"notes": "none", "embeddings": "musicnn", "players": 2} | audio)
  c.lock()
  return c


def _run(generated, reference, out, training="", **audio):
  c = _config(generated, reference, out, **audio)
  c.training = str(training)
  evaluate(c)
  return json.loads((out / "audio.json").read_text())


def test_writes_json_csv_markdown_and_a_page(music, bands, tmp_path):
  values = _run(music / "generated", music / "reference", tmp_path)
  found = values["distances"]["bands"]
  assert min(found["halves_of_the_reference"]["fad"], found["fad"]) > 0
  assert found["fad_infinity"]["clips"][-1] == 10 and not found["is_deficient"]
  assert values["cautions"] == ["Notes were not measured (config.audio.notes=none)."]
  assert values["seed"] == 0 and "bundle" not in values and "split" not in values
  rows = list(csv.DictReader((tmp_path / "audio.csv").open()))
  assert len(rows) == 20 and {row["set"] for row in rows} == {"generated", "reference"}
  assert float(rows[0]["fad_bands"]) == pytest.approx(found["fad_by_clip"]["generated"][0])
  page = (tmp_path / "audio.html").read_text()
  assert page.count("<audio") == 3 and "http" not in page.replace("http-equiv", "")
  assert "FAD, bands" in (tmp_path / "audio.md").read_text()
  # Its own files are replaced without a word, those of others are not.
  _run(music / "generated", music / "reference", tmp_path)
  (tmp_path / "audio.csv").write_text("mine")
  with pytest.raises(UserError, match=r"audio\.csv is there already"):
    _run(music / "generated", music / "reference", tmp_path)


def test_goes_on_where_it_was_cut_off(music, bands, tmp_path, monkeypatch):
  whole, load = measure.audio_io.load_start, []

  def killed(path, seconds):
    load.append(path)
    if len(load) == 5:
      raise KeyboardInterrupt
    return whole(path, seconds)

  monkeypatch.setattr(measure.audio_io, "load_start", killed)
  with pytest.raises(KeyboardInterrupt):
    _run(music / "generated", music / "reference", tmp_path, players=0)
  assert bands.calls == 4
  _run(music / "generated", music / "reference", tmp_path, players=0)
  assert bands.calls == 20 and len(load) == 21
  # A torn file of results is made again; the others are not.
  next((tmp_path / "measured").glob("*bands*")).write_bytes(b"torn")
  _run(music / "generated", music / "reference", tmp_path, players=0)
  assert bands.calls == 21


def test_names_and_order_of_files_do_not_matter(music, bands, tmp_path):
  a = _run(music / "generated", music / "reference", tmp_path / "a", players=0)
  renamed = tmp_path / "renamed"
  renamed.mkdir()
  for i, path in enumerate(sorted((music / "generated").iterdir(), reverse=True)):
    shutil.copy(path, renamed / f"{i:02d}.wav")
  b = _run(renamed, music / "reference", tmp_path / "a", players=0)
  for key in ("fad", "kad"):
    assert a["distances"]["bands"][key] == pytest.approx(b["distances"]["bands"][key], rel=1e-9)
  limits = [x["distances"]["bands"]["fad_infinity"]["limit"] for x in (a, b)]
  assert limits[0] == pytest.approx(limits[1], rel=1e-6)
  assert a["sets"]["generated"]["sha256"] == b["sets"]["generated"]["sha256"]


def test_odd_inputs_are_measured_and_told(music, bands, tmp_path, capsys):
  odd = write(tmp_path / "odd", 3)
  (odd / "corrupt.flac").write_bytes(b"fLaC nothing")
  soundfile.write(odd / "nan.wav", np.array([0.1, np.nan] * RATE), RATE, subtype="FLOAT")
  soundfile.write(odd / "short.wav", song(0, 0.1), RATE)
  soundfile.write(odd / "sub.mp3", song(7, rate=44_100), 44_100)
  soundfile.write(odd / "silent.wav", np.zeros(2 * RATE), RATE)
  soundfile.write(odd / "long.wav", song(8, 7.0), RATE)
  shutil.copy(odd / "00.wav", odd / "again.wav")
  values = _run(odd, music / "reference", tmp_path / "out", players=1, max_seconds=5.0)
  assert values["sets"]["generated"]["clips"] == 7
  told = "\n".join(values["cautions"])
  for line in (
    "3 of 10 generated files are left out",
    "corrupt.flac",
    "not finite",
    "0.10 s long, under 0.5 s",
    "several sample rates (6 of 24000 Hz, 1 of 44100 Hz)",
    "1 generated clips are silent: silent.wav",
    "Of 1 generated files only the first 5 s were measured",
    "2 generated files are copies of each other",
    "The sets differ in size (7 generated, 10 reference)",
  ):
    assert line in told, line
  silent = next(c for c in values["clips"] if c["file"] == "silent.wav")
  assert silent["loudness"] is None and silent["beat_strength"] is None
  assert "left out" in capsys.readouterr().err


def test_a_set_against_itself_is_0_and_says_nothing(music, bands, tmp_path):
  values = _run(music / "reference", music / "reference", tmp_path, players=0)
  assert values["distances"]["bands"]["fad"] < 1e-8
  # Without bias it is a little below 0: each clip meets itself in the other set.
  assert values["distances"]["bands"]["kad"] < 0
  assert any("is the generated set itself" in line for line in values["cautions"])


def test_one_clip_is_measured_and_flagged(music, bands, tmp_path):
  values = _run(write(tmp_path / "one", 1), music / "reference", tmp_path / "out", players=1)
  found = values["distances"]["bands"]
  assert found["fad"] > 0 and found["is_deficient"]
  assert found["kad"] is None and found["fad_infinity"] is None
  told = "\n".join(values["cautions"])
  assert "one generated clip" in told and "not of full rank" in told


@pytest.mark.parametrize(
  "files, message",
  [
    ({}, "holds no audio file"),
    ({"notes.txt": b"x"}, "holds no audio file"),
    ({"a.wav": b"", "b.wav": b"RIFF"}, "no clip of .* can be measured"),
  ],
)
def test_nothing_to_measure_is_one_line(music, bands, tmp_path, files, message):
  folder = tmp_path / "empty"
  folder.mkdir()
  for name, content in files.items():
    (folder / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    _run(folder, music / "reference", tmp_path / "out")
  with pytest.raises(UserError, match=message):
    _run(music / "generated", folder, tmp_path / "out")


def test_wrong_options_are_one_line(music, bands, tmp_path):
  for c, message in (
    (_config("", music / "reference", tmp_path), "config.generated is empty"),
    (_config(music / "none", music / "reference", tmp_path), "does not exist .config.generated."),
    (_config(music / "generated", __file__, tmp_path), "is a file .config.reference."),
    (_config(music, music, tmp_path, level="loud"), "config.audio.level"),
    (_config(music, music, tmp_path, draws=0), "config.audio.draws"),
    (_config(music, music, tmp_path, notes="none.onnx"), "no file none.onnx"),
    (_config(music, music, tmp_path, prompts="none.csv"), "config.audio.prompts"),
  ):
    with pytest.raises(UserError, match=message):
      evaluate(c)


def test_copies_of_training_clips_stand_out(music, bands, tmp_path):
  mixed = write(tmp_path / "mixed", 4)
  # A copy in another format, level and place is a copy still.
  whole = song(31, 6.0)
  soundfile.write(mixed / "copy.flac", 0.5 * whole[2 * RATE : 5 * RATE], RATE)
  training = write(tmp_path / "training", 8, first=40)
  soundfile.write(training / "source.wav", whole, RATE)
  shutil.copy(music / "reference" / "20.wav", training)
  values = _run(mixed, music / "reference", tmp_path / "out", training, players=0)
  found = values["memorisation"]["chroma"]
  at = [c["file"] for c in values["clips"]].index("copy.flac")
  assert found["nearest"][at] == "source.wav" and found["generated"][at] > 0.8
  assert found["nearer_than_any_reference"] == 1
  assert any("1 reference clips are training files" in line for line in values["cautions"])


class _Judge:
  """Hears no notes, and counts how often it is asked."""

  digest = "0" * 64

  def __init__(self):
    self.calls = 0

  def __call__(self, audio_S):
    self.calls += 1
    silence = np.zeros((200, 88), np.float32)
    return Posteriors(silence, silence)


def test_notes_are_not_asked_for_in_training_clips(music, bands, tmp_path, monkeypatch):
  judge = _Judge()
  monkeypatch.setattr(audio, "load_notes", lambda path: (judge, ""))
  training = write(tmp_path / "training", 3, first=40)
  values = _run(music / "generated", music / "reference", tmp_path / "out", training, players=0)
  assert judge.calls == 20 and len(values["memorisation"]["chroma"]["generated"]) == 10


def test_prompts_come_from_reports_or_a_table(music, tmp_path):
  from melody_jax.evaluation.systems.folder import audio_files, prompts_of

  folder = write(tmp_path / "g", 3)
  (folder / "00.json").write_text('{"prompt": "slow waltz", "nfe": 270}')
  (folder / "01.json").write_text('{"prompt": "a | b"}')
  (folder / "02.json").write_text("[]")
  files = audio_files(str(folder), "config.generated")
  assert prompts_of(files, "") == {files[0]: "slow waltz"}
  table = tmp_path / "p.csv"
  table.write_text("file,prompt\n01.wav,techno\nsome/02.wav,\n")
  assert prompts_of(files, str(table)) == {files[1]: "techno"}
  table.write_text("name,text\n")
  with pytest.raises(UserError, match="columns file and prompt"):
    prompts_of(files, str(table))
