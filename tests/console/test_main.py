"""`melody-jax`: commands and builders by name, from any directory, from a checkout and a wheel."""

import os
import re
import subprocess
import sys

import pytest
import soundfile

from melody_jax.console import main as console
from melody_jax.provenance import VERSION
from tests.test_chain import song


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
  """Runs `melody-jax ...` in this process, in an empty directory: (status, output, errors)."""
  monkeypatch.chdir(tmp_path)

  def run(*arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["melody-jax", *arguments])
    # What other tests have imported would be run with a warning.
    for name in [
      n for n in sys.modules if re.fullmatch(r"melody_jax\.\w+|data\.\w+(\.__main__)?", n)
    ]:
      if name.split(".")[1] in (*console.COMMANDS, *console.BUILDERS):
        monkeypatch.delitem(sys.modules, name)
    status = 0
    try:
      console.main()
    except SystemExit as end:
      status = end.code
    return status, *capsys.readouterr()

  return run


def test_help_and_version(call):
  for arguments in (["--help"], ["-h"], ["build", "--help"]):
    status, out, _ = call(*arguments)
    assert status == 0 and all(
      f"  {name} " in out for name in (*console.COMMANDS, *console.BUILDERS)
    )
  assert call("--version") == (0, f"melody-jax {VERSION}\n", "")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "no command"),
    (["sampel"], "did you mean 'sample'"),
    (["build"], "no corpus"),
    (["build", "music-foldr"], "did you mean 'music_folder'"),
    (["sample"], "the prompt is empty"),
    (["sample", "--config=nope"], "no config file 'nope'"),
    (["train", "--workdir=x"], "--config=FILE is missing"),
    (["train", "--config=lm:tiny"], "--workdir=DIR is missing"),
    (["export", "--config=lm:tiny", "--workdir=x"], "--config.export.bundle=DIR is missing"),
    (["fit", "--config=fit:style", "--config.bundle=x"], "no checkpoint at x"),
    (["encode"], "--config.source=DIR is missing"),
    (["evaluate", "--config.bundle=x"], "no bundle directory 'x'"),
    (["plan", "--config=lm:tiny"], "--topology=NAME is missing"),
    (["export-sampler", "--config.prompt=a"], "--out=FILE.sampler is missing"),
    (["build", "music_folder", "--folder=x"], "music folder x does not exist"),
  ],
)
def test_every_command_is_reached_and_ends_in_one_line(call, arguments, message):
  status, out, errors = call(*arguments)
  lines = [line for line in str(errors).splitlines() if not line.startswith("[")]
  # sys.exit(text) of a builder: Python prints the text after this.
  if isinstance(status, str):
    lines.append(status)
  assert status not in (0, None) and out == "" and len(lines) == 1
  assert "error: " in lines[0] and message in lines[0]


def test_an_extra_that_is_missing_is_named(call, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)

  def run_module(*_, **__):
    raise ModuleNotFoundError("No module named 'orbax'", name="orbax.checkpoint")

  monkeypatch.setattr(console.runpy, "run_module", run_module)
  status, _, errors = call("train", "--config=lm:tiny", "--workdir=x")
  assert status == 2 and "pip install 'melody_jax[train]'" in errors and errors.count("\n") == 1


def test_a_builder_runs_in_several_processes(call, tmp_path, monkeypatch):
  (tmp_path / "Music").mkdir()
  # A stranger's package of the builders' name is where the user is.
  (tmp_path / "data").mkdir()
  (tmp_path / "data" / "__init__.py").write_text("raise SystemExit('the wrong data')")
  for i in range(3):
    soundfile.write(tmp_path / "Music" / f"{i}.wav", song(i, 11), 24_000)
  monkeypatch.setenv("HOME", str(tmp_path))
  status, out, errors = call(
    "build", "music_folder", "--folder=~/Music", "--data_dir=~/d", "--jobs=2"
  )
  assert status == 0, errors
  assert "3 tracks" in out
  assert (tmp_path / "d" / "music_folder" / "1.0.0" / "dataset_info.json").is_file()


@pytest.fixture(scope="module")
def installed(tmp_path_factory, repository):
  """What a wheel holds, unpacked: built by setup.py from a copy, without the network."""
  where = tmp_path_factory.mktemp("wheel")
  source = where / "source"
  source.mkdir()
  for name in ("setup.py", "pyproject.toml", "README.md", "melody_jax", "configs", "data"):
    (source / name).symlink_to(repository / name)
  subprocess.run(
    [sys.executable, "setup.py", "-q", "build", "--build-base", str(where / "b"),
     "--build-lib", str(where / "site")],
    cwd=source, check=True, capture_output=True, text=True,
  )  # fmt: skip
  return where / "site"


def test_a_wheel_has_pages_and_builders_inside_the_package_and_nothing_beside_it(installed):
  assert [path.name for path in installed.iterdir()] == ["melody_jax"]
  package = installed / "melody_jax"
  assert (package / "configs" / "sample.py").is_file()
  assert (package / "configs" / "sweeps" / "dpd_size.py").is_file()
  for builder in console.BUILDERS:
    assert (package / "data" / builder / "__main__.py").is_file()
  texts = [path.read_text("utf-8") for path in package.rglob("*.py")]
  lines = [line.split() for text in texts for line in text.splitlines()]
  imports = [words[1] for words in lines if words[:1] in (["from"], ["import"]) and len(words) > 1]
  assert not [name for name in imports if name.split(".")[0] in ("data", "configs")]
  assert "melody_jax.data.build" in imports


def test_a_wheel_samples_and_builds_from_any_directory(installed, tiny_models, tmp_path):
  """One process: pages, builders and the codec, found in the package alone."""
  (tmp_path / "Music").mkdir()
  soundfile.write(tmp_path / "Music" / "a song.wav", song(1, 21), 24_000)
  program = "\n".join(
    [
      "import sys",
      "from melody_jax.console.main import main",
      "for line in sys.stdin.read().splitlines():",
      "  sys.argv = ['melody-jax', *line.split('|')]",
      "  try:",
      "    main()",
      "  except SystemExit as end:",  # a builder ends its process
      "    assert not end.code, end",
    ]
  )
  lines = [
    "build|music_folder|--folder=~/Music|--data_dir=~/d",
    "encode|--config.source=~/d/music_folder|--config.features=audio|--config.out=~/e",
    f"sample|--config.mode=reconstruct|--config.audio=~/Music/a song.wav"
    f"|--config.checkpoint={tiny_models}|--config.out=~/x.wav",
  ]
  done = subprocess.run(
    [sys.executable, "-c", program], input="\n".join(lines), cwd=tmp_path, text=True,
    capture_output=True, check=False,
    env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(installed)},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "split by time" in done.stderr and (tmp_path / "e" / "1.0.0").is_dir()
  assert soundfile.info(tmp_path / "x.wav").duration == pytest.approx(21, abs=0.1)
