"""Results of a sweep in a page of the docs: written by the command, never by hand."""

import json

import pytest

from tests.conftest import REPOSITORY
from tests.launch.test_launchers import sweeps

PLACE = "# Results\n\n<!-- sweep steps -->\nnot run\n<!-- end of steps -->\n\nThe end.\n"


@pytest.fixture
def made(tmp_path):
  """Results of seven of nine runs, as `evaluate` writes them."""
  sweep = sweeps.load("steps")
  for run in sweep.runs[:7]:
    folder = tmp_path / "d" / "steps" / sweeps.run_name(run)
    folder.mkdir(parents=True)
    steps = run["sampling.sampler.steps"]
    result = {
      "scores": {"fad": steps + run["seed"], "mcc": None},
      "reference": {"fad": 1.25},
      "reference_clips": 96,
      "bundle_sha256": "ab" * 32,
      "bundle": str(tmp_path / "bundle"),
      "data": str(tmp_path / "data"),
      "seconds": 60.0,
    }
    (folder / "sampling.json").write_text(json.dumps(result))
  return sweep, tmp_path


def test_the_place_of_a_sweep_is_written_anew(made):
  _, root = made
  page = root / "results.md"
  page.write_text(PLACE)
  with pytest.raises(sweeps.SweepError, match="2 runs have no result"):
    sweeps.main(["gather", "steps", str(root / "d"), str(page)])
  text = page.read_text()
  assert "not run" not in text and text.startswith("# Results") and text.endswith("The end.\n")
  assert "| 5 | 3 | 6 ± 1 |" in text and "| 20 | 2 | 20.5 ± 0.71 |" in text
  assert "bundle `abababababab`; 60 s a run in the median, 420 in all." in text
  assert "96 clips of held-out music: FAD 1.25" in text
  assert (root / "results" / "steps.png").read_bytes().startswith(b"\x89PNG")
  # What each run measured is kept, without the folders of this machine.
  kept = (root / "results" / "steps.json").read_text()
  assert len(json.loads(kept)) == 7 and str(root) not in kept + text
  with pytest.raises(sweeps.SweepError):
    sweeps.main(["gather", "steps", str(root / "d"), str(page)])
  assert page.read_text() == text


@pytest.mark.parametrize("page", ["", "<!-- sweep steps -->\n", PLACE + PLACE])
def test_a_page_without_one_place_is_left_alone(made, page):
  _, root = made
  path = root / "results.md"
  path.write_text(page)
  with pytest.raises(sweeps.SweepError, match="no place for the sweep 'steps'"):
    sweeps.main(["gather", "steps", str(root / "d"), str(path)])
  assert path.read_text() == page and not (root / "results").exists()


def test_a_row_without_a_run_says_so(made):
  sweep, root = made
  rows, _ = sweeps.rows_of(sweep, str(root / "d"))
  rows[0]["runs"], rows[0]["FAD"], rows[0]["FAD spread"] = 0, None, None
  assert "| 5 | 0 | not run |" in sweeps._docs().table(rows, ["FAD"])


def test_the_page_of_results_has_a_place_for_every_sweep_it_names():
  page = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
  for named in (*sweeps.names(), "denoisers_short"):
    assert page.count(f"<!-- sweep {named} -->") == page.count(f"<!-- end of {named} -->") == 1
